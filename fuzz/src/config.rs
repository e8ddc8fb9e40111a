//! Target `config`: a configuration file's text.

use braid_core::config::{Config, ConfigError};

/// Runs the target.
pub fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match Config::parse(text) {
        Ok(config) => accepted(&config),
        Err(error) => refused(text, &error),
    }
}

fn accepted(config: &Config) {
    assert!(!config.listen.is_empty() || config.dialled().next().is_some());
    assert!(config.paths.len() <= 64);
    let intercepted = config.intercept.iter().flat_map(|intercept| &intercept.interfaces);
    for name in config.paths.iter().map(|path| &path.interface).chain(intercepted) {
        assert!((1..=15).contains(&name.len()));
        assert!(name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'"'));
    }
    for peer in &config.peers {
        assert!((2..=4096).contains(&peer.carriers));
        assert!(peer.routes.iter().all(|route| route.trunc() == *route));
        assert!(peer.endpoints.iter().all(|endpoint| is_one_line(&endpoint.to_string())));
    }
}

fn refused(text: &str, error: &ConfigError) {
    let shown = error.to_string();
    assert!(is_one_line(&shown), "{shown:?}");
    assert!(!error.problem.is_empty());
    let lines = 1 + text.bytes().filter(|byte| *byte == b'\n').count();
    assert!(error.line.is_none_or(|line| (1..=lines).contains(&line)));
}

/// One line wherever it is shown.
fn is_one_line(text: &str) -> bool {
    !text.chars().any(|c| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}'))
}
