//! UPDATE and ROUTE-REFRESH messages that nobody here wrote, or that follow published vulnerabilities, and what must come
//! of each. The files are data beside the workspace; where they are absent the tests say so and pass.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod decode;
mod disposition;
mod load;
mod rtc;
