//! V: VERSION.

use serde_json::json;

use super::{Checked, Item, Subject, must, want};

pub(super) const ITEMS: &[Item] = &[
    must("V1", "VERSION answers cniVersion and supportedVersions", answers),
    must("V1.1", "cniVersion of the answer is that of the question", echoes),
    must("V2", "VERSION looks at no variable but CNI_COMMAND", dummies),
    must("V3", "ADD and DEL work in every version that is listed", each_works),
];

fn answers(it: &Subject<'_>) -> Checked {
    let answer = it.bare().run("VERSION", &json!({ "cniVersion": "1.0.0" })).try_result()?;
    let list = answer["supportedVersions"].as_array().cloned().unwrap_or_default();
    want(!list.is_empty() && list.iter().all(serde_json::Value::is_string), || answer.to_string())
}

fn echoes(it: &Subject<'_>) -> Checked {
    for version in ["0.4.0", "1.0.0"] {
        let answer = it.bare().run("VERSION", &json!({ "cniVersion": version })).try_result()?;
        want(answer["cniVersion"] == version, || format!("asked in {version}: {answer}"))?;
    }
    Ok(())
}

fn dummies(it: &Subject<'_>) -> Checked {
    let call = it
        .bare()
        .env("CNI_NETNS", "dummy")
        .env("CNI_IFNAME", "dummy")
        .env("CNI_PATH", "dummy")
        .env("CNI_CONTAINERID", "");
    Ok(call.run("VERSION", &json!({ "cniVersion": "1.0.0" })).try_result().map(drop)?)
}

fn each_works(it: &Subject<'_>) -> Checked {
    for version in it.versions() {
        it.attach(version)?.run_with_result("DEL").try_done()?;
    }
    Ok(())
}
