//! Sysctls of others: how one has to be changed, and back.

use std::io;

use braid_core::kernel::{Sysctl, Want};
use braid_sys::sysctl;
use serde::{Deserialize, Serialize};
use tracing::debug;

use crate::error::StartError;

/// A sysctl's value before, and the one that braid gave it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Changed {
    pub(crate) before: String,
    pub(crate) ours: String,
}

/// How a sysctl has to be changed; `None` when it stands as wanted, or is not there and not needed.
pub(crate) fn change_of(wanted: &Sysctl) -> Result<Option<Changed>, StartError> {
    let name = wanted.name;
    let current =
        sysctl::read(name).map_err(|error| StartError::System("cannot read a sysctl", error))?;
    match current {
        Some(before) => {
            let ours = value_to_set(&wanted.want, &before);
            Ok(ours.map(|ours| Changed { before, ours }))
        }
        None if wanted.needed => {
            let source = io::ErrorKind::NotFound.into();
            Err(StartError::Sysctl { name, wanted: String::new(), source })
        }
        None => {
            debug!("this kernel has no sysctl {name}");
            Ok(None)
        }
    }
}

/// Puts a sysctl back, unless somebody has changed it since.
pub(super) fn put_back(name: &str, changed: &Changed) -> io::Result<()> {
    let ours = |value: String| value.split_whitespace().eq(changed.ours.split_whitespace());
    if sysctl::read(name)?.is_some_and(ours) {
        sysctl::write(name, &changed.before)?;
    }
    Ok(())
}

/// The value that a sysctl has to be given; `None` when it stands as wanted.
fn value_to_set(want: &Want, current: &str) -> Option<String> {
    match want {
        Want::Exactly(value) => (value != current).then(|| value.clone()),
        Want::LastTwoAtLeast(first, most) => {
            let numbers: Vec<u64> =
                current.split_whitespace().map_while(|number| number.parse().ok()).collect();
            let [least, old_first, old_most] = numbers[..] else { return None };
            let wanted = [least, old_first.max(*first), old_most.max(*most)];
            (wanted[..] != numbers).then(|| wanted.map(|number| number.to_string()).join(" "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_too_small_is_raised() {
        let wanted = Want::LastTwoAtLeast(20, 100);
        assert_eq!(value_to_set(&wanted, "4\t16\t50"), Some("4 20 100".into()));
        assert_eq!(value_to_set(&wanted, "4\t30\t50"), Some("4 30 100".into()));
        assert_eq!(value_to_set(&wanted, "4\t20\t200"), None);
        assert_eq!(value_to_set(&wanted, "what is this"), None);
        let exactly = Want::Exactly("0".into());
        assert_eq!(value_to_set(&exactly, "3600"), Some("0".into()));
        assert_eq!(value_to_set(&exactly, "0"), None);
    }
}
