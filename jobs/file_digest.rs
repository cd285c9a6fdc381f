//! Counts the bytes and lines of a file and takes its SHA-256, once for each path, size and time of change.
//! Runs when somebody enqueues it.

use std::fs::{File, Metadata};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::cache::Memo;
use crate::{Job, JobError};

/// How long a digest is kept after it was taken.
const KEEP: Duration = Duration::from_secs(30 * 86_400);

/// Longer than the step in which Linux's file systems tell the time: a tick of the kernel, of at most 10 ms.
const STEP: Duration = Duration::from_millis(20);

/// Its payload: `{"path": "/absolute/path"}`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileDigest {
    /// The file, by an absolute path: a worker's working directory is not its enqueuer's.
    pub path: PathBuf,
}

impl Job for FileDigest {
    const NAME: &'static str = "file_digest";
    type Output = Digest;

    /// None of what is no file here, or not by this path: its handler says why.
    fn memo(&self) -> Option<Memo> {
        let found = self.path.is_absolute().then(|| stamp(&self.path).ok())??;
        Some(Memo::new(found.key(&self.path)).fresh_for(KEEP))
    }
}

/// Its result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Digest {
    /// The file's length.
    pub bytes: u64,
    /// How many newlines it holds, as `wc -l` counts.
    pub lines: u64,
    /// Its SHA-256 in lower-case hexadecimal (FIPS 180-4).
    pub sha256: String,
}

/// Takes the digest.
///
/// # Errors
/// Where the path is not absolute (the job is then dead at once), the file is missing, is not a file, cannot be read,
/// or changes while it is read.
pub async fn file_digest(job: FileDigest) -> Result<Digest, JobError> {
    let path = job.path;
    if !path.is_absolute() {
        return Err(JobError::abort(format!(
            "{} is not an absolute path",
            path.display()
        )));
    }
    let found = stamp(&path)?;
    tokio::time::sleep(found.settling()).await;
    tokio::task::spawn_blocking(move || {
        let digest = read(&path)?;
        if stamp(&path)? != found || digest.bytes != found.size {
            return Err(JobError::retry(format!(
                "{} changed while it was read",
                path.display()
            )));
        }
        Ok(digest)
    })
    .await?
}

/// What tells one content of a path from another.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Stamp {
    size: u64,
    modified_nanos: i128,
}

impl Stamp {
    /// How long until a further change of the file shows in its time of change, which moves in steps: a file that was
    /// changed in this very step could be changed again, after it was read, and keep its stamp.
    fn settling(&self) -> Duration {
        let changed = u64::try_from(self.modified_nanos).map(Duration::from_nanos);
        let age = changed
            .ok()
            .and_then(|changed| SystemTime::now().duration_since(UNIX_EPOCH + changed).ok());
        age.map_or(Duration::ZERO, |age| STEP.saturating_sub(age))
    }

    /// A path may be longer than a key, and so it goes in as a hash.
    fn key(&self, path: &Path) -> String {
        let path = hexadecimal(&Sha256::digest(path.as_os_str().as_encoded_bytes()));
        format!("file_digest:{path}:{}:{}", self.size, self.modified_nanos)
    }
}

fn stamp(path: &Path) -> Result<Stamp, JobError> {
    let metadata = std::fs::metadata(path).map_err(|error| fault(path, &error))?;
    if !metadata.is_file() {
        return Err(JobError::retry(format!("{} is not a file", path.display())));
    }
    Ok(Stamp {
        size: metadata.len(),
        modified_nanos: modified_nanos(&metadata),
    })
}

fn modified_nanos(metadata: &Metadata) -> i128 {
    let Ok(modified) = metadata.modified() else {
        return 0;
    };
    let nanos = |duration: Duration| i128::try_from(duration.as_nanos()).unwrap_or(i128::MAX);
    match modified.duration_since(UNIX_EPOCH) {
        Ok(after) => nanos(after),
        Err(before) => -nanos(before.duration()),
    }
}

fn read(path: &Path) -> Result<Digest, JobError> {
    let mut file = File::open(path).map_err(|error| fault(path, &error))?;
    let (mut hash, mut bytes, mut lines, mut buffer) = (Sha256::new(), 0, 0, vec![0; 64 * 1024]);
    loop {
        let count = file
            .read(&mut buffer)
            .map_err(|error| fault(path, &error))?;
        if count == 0 {
            return Ok(Digest {
                bytes,
                lines,
                sha256: hexadecimal(&hash.finalize()),
            });
        }
        let chunk = &buffer[..count];
        hash.update(chunk);
        bytes += count as u64;
        lines += chunk.iter().filter(|byte| **byte == b'\n').count() as u64;
    }
}

fn fault(path: &Path, error: &std::io::Error) -> JobError {
    JobError::retry(format!("cannot read {}: {error}", path.display()))
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
