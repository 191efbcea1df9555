//! `config edit`: the stored text into an editor and back, with the revision it was based on.
//!
//! What a person typed is never lost: on a fault or a conflict the file stays, and its path is said.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use model::id::Revision;
use proto::api::{ConfigWrite, StoredConfig};
use proto::key::Target;

use super::{changes, hint, name};
use crate::api::Api;
use crate::cli::operator;
use crate::exit::{Exit, Failure, Outcome};

pub(super) fn run(api: &Api, target: &Target, out: &mut dyn Write) -> Outcome {
    let base = match api.config(target) {
        Ok(stored) => stored,
        Err(error) if error.is_not_found() => {
            StoredConfig { text: beginning(target).to_owned(), revision: Revision(0) }
        }
        Err(error) => return Err(error.into()),
    };
    let file = Draft::create(&base.text)?;
    let edited = file.edit()?;
    if edited.trim() == base.text.trim() {
        file.discard()?;
        writeln!(out, "nothing was changed")?;
        return Ok(Exit::Ok);
    }
    let write = ConfigWrite {
        text: edited.clone(),
        expect_revision: Some(base.revision),
        unchecked: false,
        by: Some(operator()),
    };
    match api.write_config(target, &write) {
        Ok(written) => {
            file.discard()?;
            writeln!(out, "{} is stored as revision {}{}", name(target), written.revision, hint(target))?;
            Ok(Exit::Ok)
        }
        Err(error) => {
            if error.is_conflict() {
                conflict(api, target, &base, &edited, out)?;
            }
            let kept = format!("nothing was stored; what you wrote is kept in {}", file.path.display());
            Err(Failure::new(Exit::Failed, anyhow::Error::new(error).context(kept)))
        }
    }
}

fn beginning(target: &Target) -> &'static str {
    match target {
        Target::Agent(_) => "{\n  \"interval\": 5\n}\n",
        Target::Group(_) => "{\n  \"selector\": \"role=db\",\n  \"priority\": 10,\n  \"config\": {}\n}\n",
    }
}

/// Both sides, each as its difference to what the edit began with.
fn conflict(
    api: &Api,
    target: &Target,
    base: &StoredConfig,
    mine: &str,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    let theirs = api.config(target).map(|stored| stored.text).unwrap_or_default();
    writeln!(out, "{} was changed by somebody else meanwhile.\ntheir change:", name(target))?;
    changes::print(&base.text, &theirs, out)?;
    writeln!(out, "your change:")?;
    changes::print(&base.text, mine, out)?;
    Ok(())
}

/// A private temporary file.
struct Draft {
    path: PathBuf,
}

impl Draft {
    fn create(text: &str) -> std::io::Result<Self> {
        let path = std::env::temp_dir().join(format!("watchfloor-{}.json", ulid::Ulid::generate()));
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        file.write_all(text.as_bytes())?;
        Ok(Self { path })
    }

    fn edit(&self) -> Result<String, Failure> {
        let given = |name| std::env::var(name).ok().filter(|editor| !editor.trim().is_empty());
        let editor = given("VISUAL").or_else(|| given("EDITOR")).unwrap_or_else(|| "vi".to_owned());
        // As git does: the variable may hold arguments, so a shell splits it; the path is passed apart.
        let status =
            Command::new("sh").arg("-c").arg(format!("{editor} \"$1\"")).arg("sh").arg(&self.path).status();
        let kept = Path::display(&self.path);
        match status {
            Ok(status) if status.success() => Ok(std::fs::read_to_string(&self.path)?),
            Ok(status) => Err(Failure::message(
                Exit::Failed,
                format!("{editor} ended with {status}: nothing was stored; the draft is {kept}"),
            )),
            Err(error) => Err(Failure::message(
                Exit::Failed,
                format!("cannot start {editor} ({error}): set EDITOR; the draft is {kept}"),
            )),
        }
    }

    fn discard(&self) -> std::io::Result<()> {
        std::fs::remove_file(&self.path)
    }
}
