//! `repair`: gives up one record of a state directory that nothing runs on.
//!
//! Owns nothing but the words: what is given up, and at what price, the controller's records know.

use strait_controller::records::{self, RecordName};

use super::emit;
use crate::{
    args::RepairArgs,
    exit::{CliError, Exit},
};

/// Gives the record up and says what that costs.
pub(super) fn repair(args: &RepairArgs) -> Result<Exit, CliError> {
    let name = RecordName::parse(&args.record)
        .map_err(|rule| CliError::usage(format!("{:?}: {rule}", args.record)))?;
    let told = records::repair(&args.state.state, &name)
        .map_err(|e| CliError::failed(e.to_string()).because(e.reason()))?;
    emit(&format!("{told}\n"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::StateArg;

    #[test]
    fn a_place_without_records_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let args = |record: &str| RepairArgs {
            record: record.into(),
            state: StateArg {
                state: dir.path().into(),
            },
        };
        assert_eq!(repair(&args("vips")).unwrap_err().exit, Exit::Failed);
        assert_eq!(repair(&args("../vips")).unwrap_err().exit, Exit::Usage);
    }
}
