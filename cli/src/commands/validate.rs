//! `validate`: every mistake in a folder of manifests, and what applying it would take away, without applying anything.
//!
//! Owns the report. Never writes a file and never judges: loading and comparing are federation-api's. Called by dispatch.

use serde::Serialize;
use strait_controller::source::{ManifestFile, read_last_good, read_manifests};
use strait_federation_api::{
    diff::{Change, Live, diff},
    manifest::{Finding, Loaded, ResourceSet, load},
};

use super::emit;
use crate::{
    args::{StateArg, ValidateArgs},
    exit::{CliError, Exit},
    local::{Client, LocalError, Reply, Request},
    output::{plain, show},
};

/// What `validate` found.
#[derive(Debug, Serialize)]
struct Report {
    valid: bool,
    files: usize,
    errors: Vec<Finding>,
    warnings: Vec<Finding>,
    /// What applying it would withdraw or cut; absent unless asked for, and while there are errors.
    #[serde(skip_serializing_if = "Option::is_none")]
    changes: Option<Vec<Change>>,
    /// The changes were judged by the rules alone: no process runs that could tell what peers really offer.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    rules_only: bool,
}

/// `strait validate`.
pub(super) async fn validate(args: ValidateArgs) -> Result<Exit, CliError> {
    let unreadable = |e: std::io::Error| {
        CliError::config(format!("cannot read manifests in {}: {e}", args.dir.display()))
            .help("name a folder of .yaml files, or set STRAIT_CONFIG")
    };
    let files = read_manifests(&args.dir).map_err(unreadable)?;
    let loaded = parse(&files);
    let mut report = Report {
        valid: loaded.errors.is_empty(),
        files: files.len(),
        errors: loaded.errors,
        warnings: loaded.warnings,
        changes: None,
        rules_only: false,
    };
    if args.diff && report.valid {
        let (changes, live) = changes(&args.show.state, &loaded.resources).await?;
        (report.changes, report.rules_only) = (Some(changes), !live);
    }
    let exit = if report.valid { Exit::Ok } else { Exit::Config };
    emit(&show(&report, args.show.output, |report, _| lines(report))?)?;
    Ok(exit)
}

fn parse(files: &[ManifestFile]) -> Loaded {
    let texts: Vec<_> = files
        .iter()
        .map(|file| (file.path.display().to_string(), &file.text))
        .collect();
    load(&texts)
}

/// What replacing the set in force by `new` would take away, and whether a running process was asked.
async fn changes(state: &StateArg, new: &ResourceSet) -> Result<(Vec<Change>, bool), CliError> {
    let in_force = read_last_good(&state.state).ok_or_else(|| {
        CliError::failed(format!("nothing is in force in {}", state.state.display()))
            .help("--diff compares with a state directory that `strait run` uses: name it with --state or STRAIT_STATE")
    })?;
    let old = parse(&in_force).resources;
    let live = match Client::new(&state.state).call(Request::Status).await {
        Ok(Reply::Status(status)) => Some(Live::of(&status.controller, &status.gateway)),
        Ok(other) => return Err(super::unexpected(&other)),
        Err(LocalError::NotRunning { .. }) => None,
        Err(e) => return Err(e.into()),
    };
    Ok((diff(&old, new, live.as_ref()), live.is_some()))
}

/// One line a finding, the sum, then one line a change.
fn lines(report: &Report) -> String {
    let told = |kind: &'static str| move |f: &Finding| format!("{kind}: {}\n", plain(&f.to_string()));
    let errors = report.errors.iter().map(told("error"));
    let warnings = report.warnings.iter().map(told("warning"));
    let mut text: String = errors.chain(warnings).collect();
    let verdict = if report.valid { "valid" } else { "invalid" };
    let (errors, warnings) = (report.errors.len(), report.warnings.len());
    text += &format!(
        "{verdict}: {} files, {errors} errors, {warnings} warnings\n",
        report.files
    );
    let Some(changes) = &report.changes else {
        return text;
    };
    if changes.is_empty() {
        text += "applying it withdraws and cuts nothing\n";
    }
    changes
        .iter()
        .for_each(|change| text += &format!("change: {}\n", plain(&change.to_string())));
    if report.rules_only {
        text += "note: no strait runs there; judged by the rules alone, not by what peers offer\n";
    }
    text
}
