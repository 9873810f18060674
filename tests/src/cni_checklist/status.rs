//! S: STATUS, from version 1.1.0 on.

use super::{Checked, Item, Subject, must, should, want};

pub(super) const ITEMS: &[Item] = &[
    must("S0", "STATUS in a version before 1.1.0 is error 1", too_old),
    must("S1", "STATUS succeeds, and prints nothing, while ADD would", serves),
    must("S1.1", "STATUS needs no variable but CNI_COMMAND", bare),
    must("S2", "STATUS fails with 50 or 51 while the daemon that it depends on is away", daemon_away),
    should("S2.1", "and says why", says_why),
    must("S3", "STATUS is passed on to the delegate, and so is its error", passed_on),
    must("S4", "ADD and DEL work whether or not STATUS was called", unasked),
];

fn too_old(it: &Subject<'_>) -> Checked {
    it.needs("1.1.0")?;
    let Some(version) = it.versions().iter().find(|version| version.as_str() < "1.1.0") else {
        return Err(super::inapplicable("it lists no version before 1.1.0"));
    };
    let error = it.bare().run("STATUS", &it.conf(version)).try_error()?;
    want(error.code == 1, || format!("{error:?}"))
}

fn serves(it: &Subject<'_>) -> Checked {
    it.needs("1.1.0")?;
    Ok(it.bare().run("STATUS", &it.conf("1.1.0")).try_done()?)
}

fn bare(it: &Subject<'_>) -> Checked {
    it.needs("1.1.0")?;
    let answer = it.bare().without("CNI_PATH").run("STATUS", &it.conf("1.1.0"));
    match answer.try_error() {
        // Without CNI_PATH no delegate can be found, but the variable is not missing.
        Ok(error) => want(error.code != 4, || format!("{error:?}")),
        Err(_) => Ok(answer.try_done()?),
    }
}

fn daemon_away(it: &Subject<'_>) -> Checked {
    it.needs("1.1.0")?;
    let error = it.without_daemon(|| it.bare().run("STATUS", &it.conf("1.1.0")))?.try_error()?;
    want(matches!(error.code, 50 | 51), || format!("{error:?}"))
}

fn says_why(it: &Subject<'_>) -> Checked {
    it.needs("1.1.0")?;
    let error = it.without_daemon(|| it.bare().run("STATUS", &it.conf("1.1.0")))?.try_error()?;
    want(!error.msg.is_empty() && !error.details.is_empty(), || format!("{error:?}"))
}

fn passed_on(it: &Subject<'_>) -> Checked {
    it.needs("1.1.0")?;
    let conf = it.delegating("1.1.0", &["STATUS"])?;
    let error = it.bare().run("STATUS", &conf).try_error()?;
    want(error.msg.contains("delegate says no"), || format!("{error:?}"))
}

fn unasked(it: &Subject<'_>) -> Checked {
    let attachment = it.attach(it.latest())?;
    Ok(attachment.run_with_result("DEL").try_done()?)
}
