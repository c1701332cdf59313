//! `pontoon dump`: all rows to a file.

use crate::cli::ClusterOptions;
use crate::error::Error;
use crate::formats::Format;
use crate::output::{Output, Stdout, counted};
use crate::rows::Rows;
use bytes::Bytes;
use clap::Args;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use tempfile::NamedTempFile;

/// Write all rows, in key order, to stdout or a file.
///
/// The file appears under its name only when it is complete. Every page of rows is read
/// linearizably; what is written meanwhile may be in it or not. `pontoon load` reads it back.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pontoon dump --endpoints 127.0.0.1:7001 --certs certs > all.ndjson
  pontoon dump --format tsv --out all.tsv")]
pub struct DumpArgs {
    /// File to write; stdout if not given.
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Format; by the file's ending if not given, else ndjson.
    #[arg(long)]
    pub format: Option<Format>,
    /// Which cluster.
    #[command(flatten)]
    pub cluster: ClusterOptions,
}

/// Runs the verb.
///
/// # Errors
/// If the rows could not be read or written.
pub async fn run(args: DumpArgs) -> Result<(), Error> {
    let format = args
        .format
        .or_else(|| Format::of_path(args.out.as_deref()?))
        .unwrap_or(Format::Ndjson);
    let output = Output::of(match args.out {
        Some(_) => Stdout::Nothing,
        None => Stdout::Rows,
    });
    let rows = Rows::new(args.cluster.connect().await?, Bytes::new(), None, None);
    match &args.out {
        None => {
            let out = std::io::stdout();
            let rows = dump(output, rows, format, BufWriter::new(out), || Error::Stdout).await?;
            output.note(&format!("dumped {}", counted(rows, "row")));
        }
        Some(path) if is_special(path) => {
            let file = File::create(path).map_err(Error::file("open", path))?;
            let out = BufWriter::new(file);
            let rows = dump(output, rows, format, out, || Error::file("write", path)).await?;
            output.note(&format!("dumped {}", counted(rows, "row")));
        }
        Some(path) => {
            let file = file_beside(path)?;
            let out = BufWriter::new(&file);
            let rows = dump(output, rows, format, out, || Error::file("write", path)).await?;
            file.as_file()
                .sync_all()
                .map_err(Error::file("sync", path))?;
            file.persist(path)
                .map_err(|error| Error::file("create", path)(error.error))?;
            output.note(&format!(
                "dumped {} to {}",
                counted(rows, "row"),
                path.display()
            ));
        }
    }
    Ok(())
}

/// Whether something stands there that no file may take the place of: a device, a pipe.
fn is_special(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|there| !there.is_file())
}

/// A file that will take the place of `path`. It gets the permissions of a file made anew.
fn file_beside(path: &Path) -> Result<NamedTempFile, Error> {
    use std::os::unix::fs::PermissionsExt as _;
    let directory = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    tempfile::Builder::new()
        .prefix(".pontoon-dump-")
        .permissions(std::fs::Permissions::from_mode(0o666))
        .tempfile_in(directory.unwrap_or(Path::new(".")))
        .map_err(Error::file("create", path))
}

async fn dump<W: Write, E: FnOnce(std::io::Error) -> Error>(
    output: Output,
    mut rows: Rows,
    format: Format,
    mut out: W,
    failed: impl Fn() -> E,
) -> Result<u64, Error> {
    let progress = output.spinner("dumping");
    let mut count = 0;
    while let Some(page) = rows.next_page().await? {
        if let Some((first, _)) = page.first().filter(|_| count == 0) {
            format.begin(&mut out, first).map_err(failed())?;
        }
        for (key, value) in &page {
            format.write(&mut out, key, value).map_err(failed())?;
        }
        count += page.len() as u64;
        progress.set_message(counted(count, "row"));
    }
    out.flush().map_err(failed())?;
    progress.finish_and_clear();
    Ok(count)
}
