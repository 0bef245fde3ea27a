//! `check`: what stands between here and a peer or service, and whose side to fix.
//!
//! Owns the layout and the exit code. Never looks for itself: the running process gathers and diagnoses. Called by dispatch.

use strait_federation_api::diagnose::{Step, StepStatus};

use super::{ask, emit, unexpected};
use crate::{
    args::CheckArgs,
    exit::{CliError, Exit},
    local::{Diagnosis, Reply, Request},
    output::{plain, show},
};

/// `strait check`.
pub(super) async fn check(args: CheckArgs) -> Result<Exit, CliError> {
    let found = match ask(
        &args.show.state,
        Request::Check {
            target: args.target.clone(),
        },
    )
    .await?
    {
        Reply::Check(found) => found,
        other => return Err(unexpected(&other)),
    };
    match (found.is_empty(), args.target) {
        (true, Some(target)) => Err(CliError::usage(format!("nothing to check: {target:?} is no peer and no service here"))
            .help("name a Federation, a ClusterId or a service as namespace/name; `strait get federations` and `strait get imports` list them")),
        (true, None) => Err(CliError::usage("nothing to check: there is no federation and no import yet")
            .help("`strait invite NAME` makes a token for another cluster")),
        _ => {
            emit(&show(&found, args.show.output, |found, _| found.iter().map(told).collect())?)?;
            Ok(verdict(&found))
        }
    }
}

/// 1 if a step failed; 2 if none did, but a probe could not be made, so that nobody can vouch for the path.
fn verdict(found: &[Diagnosis]) -> Exit {
    let any = |test: fn(&Step) -> bool| found.iter().flat_map(|d| &d.steps).any(test);
    if any(|s| s.status == StepStatus::Fail) {
        Exit::Failed
    } else if any(|s| s.status == StepStatus::Skipped && s.name == "probe") {
        Exit::Usage
    } else {
        Exit::Ok
    }
}

fn told(diagnosis: &Diagnosis) -> String {
    let mut text = format!("{}\n", diagnosis.target);
    for step in &diagnosis.steps {
        let mark = match step.status {
            StepStatus::Ok => "ok",
            StepStatus::Fail => "FAIL",
            StepStatus::Skipped => "skip",
        };
        text += &format!("  {mark:<5} {:<10} {}", step.name, plain(&step.detail));
        if let (StepStatus::Fail, Some(reason)) = (step.status, step.reason) {
            text += &format!(" [{reason}]");
            let side = step
                .whose_side
                .map(|side| format!("{side}: "))
                .unwrap_or_default();
            text += &format!("\n        {:<10} fix on {side}{}", "", plain(&step.fix));
        }
        text.push('\n');
    }
    text + "\n"
}

#[cfg(test)]
mod tests {
    use strait_federation_api::{Reason, diagnose::Side};

    use super::*;

    fn step(name: &str, status: StepStatus) -> Step {
        let failed = status == StepStatus::Fail;
        Step {
            name: name.into(),
            status,
            reason: failed.then_some(Reason::Unreachable),
            whose_side: failed.then_some(Side::Path),
            detail: "what was seen".into(),
            fix: if failed {
                "open the port".into()
            } else {
                String::new()
            },
        }
    }

    fn found(steps: Vec<Step>) -> Vec<Diagnosis> {
        vec![Diagnosis {
            target: "peer west".into(),
            steps,
        }]
    }

    #[test]
    fn the_exit_code_tells_broken_from_unknown() {
        use StepStatus::{Fail, Ok, Skipped};
        assert_eq!(
            verdict(&found(vec![step("reach", Ok), step("probe", Ok)])),
            Exit::Ok
        );
        assert_eq!(
            verdict(&found(vec![step("reach", Fail), step("probe", Skipped)])),
            Exit::Failed
        );
        assert_eq!(
            verdict(&found(vec![step("reach", Ok), step("probe", Skipped)])),
            Exit::Usage
        );
        assert_eq!(
            verdict(&found(vec![step("name", Skipped), step("probe", Ok)])),
            Exit::Ok
        );
    }

    #[test]
    fn a_failure_says_whose_side_and_what_to_do() {
        let text = told(&found(vec![step("reach", StepStatus::Fail)])[0]);
        assert!(text.contains("FAIL") && text.contains("[Unreachable]"), "{text}");
        assert!(text.contains("fix on the path between: open the port"), "{text}");
    }
}
