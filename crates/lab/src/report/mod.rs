//! Shows what was measured: a file for programs, a page for people, text for the terminal.
//!
//! Owns the results' form (`model`, `figure`, `flow`, `change`, `beyond`,
//! `derived`), the terminal's view (`table`,
//! `progress`), the page (`html`, with `section` and `flow_section`, and `change_lines` for both; drawn by `bars`, `timeline` and
//! `dots` over `svg`), and the files that they are written to. It measures nothing.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

mod bars;
mod beyond;
mod change;
mod change_lines;
mod derived;
mod dots;
pub mod figure;
mod flow;
mod flow_section;
pub mod html;
pub mod model;
pub mod progress;
#[cfg(test)]
mod sample;
mod section;
mod strip;
mod svg;
pub mod table;
mod timeline;
mod words;

use model::{FORMAT, Results};

/// Where a report was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paths {
    /// The results for programs.
    pub json: PathBuf,
    /// The page for people.
    pub html: PathBuf,
}

/// Writes `results.json` and `report.html` into `dir`, each whole or not at all.
///
/// # Errors
/// If `dir` cannot be made or written to.
pub fn write(results: &Results, dir: &Path) -> io::Result<Paths> {
    std::fs::create_dir_all(dir)?;
    let paths = Paths { json: dir.join("results.json"), html: dir.join("report.html") };
    let json = serde_json::to_string_pretty(results)? + "\n";
    replace(&paths.json, dir, &json)?;
    replace(&paths.html, dir, &html::page(results))?;
    Ok(paths)
}

/// Reads the `results.json` that [`write()`] wrote.
///
/// # Errors
/// If the file cannot be read, is not of this form, or is of another version.
pub fn load(path: &Path) -> io::Result<Results> {
    let value: serde_json::Value = serde_json::from_slice(&std::fs::read(path)?)?;
    // The version is read first: a file of another one may lack what this one has.
    if value["format"] != FORMAT {
        let message = format!("results of format {}, not {FORMAT}", value["format"]);
        return Err(io::Error::new(io::ErrorKind::InvalidData, message));
    }
    Ok(serde_json::from_value(value)?)
}

fn replace(path: &Path, dir: &Path, text: &str) -> io::Result<()> {
    let mut file = tempfile::Builder::new().permissions(readable()).tempfile_in(dir)?;
    file.write_all(text.as_bytes())?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    Ok(())
}

/// The lab runs as root; whoever started it wants to read what it wrote.
fn readable() -> std::fs::Permissions {
    std::os::unix::fs::PermissionsExt::from_mode(0o644)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let results = sample::sample();
        let paths = write(&results, &dir.path().join("new")).unwrap();
        assert_eq!(load(&paths.json).unwrap(), results);
        assert!(std::fs::read_to_string(&paths.html).unwrap().ends_with("</html>\n"));
        write(&Results::new(model::Run::default()), &dir.path().join("new")).unwrap();
        assert_eq!(load(&paths.json).unwrap().settings, []);
        assert_eq!(std::fs::read_dir(dir.path().join("new")).unwrap().count(), 2);
    }

    #[test]
    fn another_format_is_refused_by_its_number() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("results.json");
        std::fs::write(&path, r#"{"format": 7}"#).unwrap();
        let error = load(&path).unwrap_err().to_string();
        assert_eq!(error, "results of format 7, not 1");
    }

    /// `cargo test -p braid-lab page_to_look_at -- --ignored` writes the sample's report into the
    /// temporary directory, for changes to its looks.
    #[test]
    #[ignore = "writes a page for people to look at"]
    fn page_to_look_at() {
        let dir = std::env::temp_dir().join("braid-report-sample");
        let paths = write(&sample::sample(), &dir).unwrap();
        println!("{}\n{}", table::text(&sample::sample(), false), paths.html.display());
    }
}
