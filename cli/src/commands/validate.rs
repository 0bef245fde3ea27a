//! `validate`: every mistake in a folder of manifests, without applying anything.

use serde::Serialize;
use strait_controller::source::read_manifests;
use strait_federation_api::manifest::{Finding, load};

use super::emit;
use crate::{
    args::ValidateArgs,
    exit::{CliError, Exit},
    output::{plain, show},
};

/// What `validate` found.
#[derive(Debug, Serialize)]
struct Report {
    valid: bool,
    errors: Vec<Finding>,
    warnings: Vec<Finding>,
}

/// `strait validate`.
pub(super) async fn validate(args: ValidateArgs) -> Result<Exit, CliError> {
    let unreadable = |e: std::io::Error| {
        CliError::config(format!("cannot read manifests in {}: {e}", args.dir.display()))
            .help("name a folder of .yaml files, or set STRAIT_CONFIG")
    };
    let files = read_manifests(&args.dir).map_err(unreadable)?;
    let texts: Vec<_> = files
        .iter()
        .map(|file| (file.path.display().to_string(), &file.text))
        .collect();
    let loaded = load(&texts);
    let report = Report {
        valid: loaded.errors.is_empty(),
        errors: loaded.errors,
        warnings: loaded.warnings,
    };
    let exit = if report.valid { Exit::Ok } else { Exit::Config };
    emit(&show(&report, args.show.output, |report, _| {
        lines(report, files.len())
    })?)?;
    Ok(exit)
}

/// One line a finding, then the sum.
fn lines(report: &Report, files: usize) -> String {
    let told = |kind: &'static str| move |f: &Finding| format!("{kind}: {}\n", plain(&f.to_string()));
    let errors = report.errors.iter().map(told("error"));
    let warnings = report.warnings.iter().map(told("warning"));
    let mut text: String = errors.chain(warnings).collect();
    let verdict = if report.valid { "valid" } else { "invalid" };
    let (errors, warnings) = (report.errors.len(), report.warnings.len());
    text += &format!("{verdict}: {files} files, {errors} errors, {warnings} warnings\n");
    text
}
