//! The one client of the API: blocking, for `vrouterctl` and `vrouter-cni`.
