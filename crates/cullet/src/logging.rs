//! Log lines: through `tracing` to standard error, quiet by default.

use std::io::IsTerminal;
use std::str::FromStr;

use tracing_subscriber::Layer;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::UsageError;
use crate::cli::LogFormat;

/// Reads `--log`.
///
/// # Errors
/// [`UsageError`] if it is not a level or a list of them.
pub(crate) fn filter(levels: &str) -> Result<Targets, UsageError> {
    let targets = Targets::from_str(levels).map_err(|error| {
        UsageError::new(format!(
            "--log {levels:?} cannot be read ({error}): name error, warn, info, debug or trace, \
             or a list like warn,objects=debug"
        ))
    })?;
    // A word alone that is no level would be taken for a target, and a typing error for silence.
    let alone = levels
        .split(',')
        .find(|part| !part.contains('=') && LevelFilter::from_str(part.trim()).is_err());
    if let Some(word) = alone {
        return Err(UsageError::new(format!(
            "--log {levels:?}: {word:?} is no level; there are off, error, warn, info, debug and \
             trace, and lists like warn,objects=debug"
        )));
    }
    // s3s logs every refused request as an error, malformed documents with their content.
    if levels.contains("s3s") {
        return Ok(targets);
    }
    Ok(targets.with_target("s3s", LevelFilter::OFF))
}

/// Begins to log. Does nothing if logging has begun.
pub(crate) fn start(format: LogFormat, filter: Targets) {
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let lines = match format {
        LogFormat::Human => lines
            .with_ansi(std::io::stderr().is_terminal())
            .with_filter(filter)
            .boxed(),
        LogFormat::Json => lines.json().flatten_event(true).with_filter(filter).boxed(),
    };
    let _ = tracing_subscriber::registry().with(lines).try_init();
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracing::Level;

    #[test]
    fn s3s_is_silent_unless_it_is_named() {
        let quiet = filter("debug").unwrap();
        assert!(quiet.would_enable("s3", &Level::DEBUG));
        assert!(!quiet.would_enable("s3s::ops", &Level::ERROR));
        assert!(
            filter("warn,s3s=debug")
                .unwrap()
                .would_enable("s3s::ops", &Level::DEBUG)
        );
        assert!(filter("nonsense=nonsense").is_err());
        assert!(filter("inof").is_err());
        assert!(filter("info,s3s=off").is_ok());
    }
}
