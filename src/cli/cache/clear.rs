//! `larder cache clear-…`: many items at once. Nothing deleted is status 1, as of `delete`.

use serde::Serialize;

use crate::cache::Cache;
use crate::call::Rewarmed;
use crate::cli::failure::{Answer, Failure};
use crate::cli::input::confirm;
use crate::cli::output::Output;
use crate::cli::progress::Progress;
use crate::settings::{Loaded, redact_url};

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct All {
    /// Do not ask
    #[arg(long)]
    yes: bool,
    /// Also the items of every namespace
    #[arg(long)]
    all_namespaces: bool,
}

impl All {
    /// Whether it was said, or is said on the terminal, that everything may go.
    pub(super) fn confirmed(&self, loaded: &Loaded) -> Result<bool, Failure> {
        if self.yes {
            return Ok(true);
        }
        let whose = if self.all_namespaces {
            "every cache item of every namespace"
        } else {
            "every cache item"
        };
        let url = redact_url(&loaded.settings.database.url);
        confirm(&format!("Delete {whose} in {url}?")).ok_or_else(|| {
            Failure::error(format!(
                "clear-all deletes {whose} in {url}, and there is no terminal to ask on: say so with --yes"
            ))
        })
    }

    pub(super) async fn run(&self, cache: &Cache, out: &mut Output) -> Result<Answer, Failure> {
        let progress = Progress::spinner("deleting cache items");
        let deleted = if self.all_namespaces {
            cache.clear_all_namespaces().await
        } else {
            cache.clear_all().await
        };
        drop(progress);
        told(out, deleted?, "cache items")
    }
}

pub(super) async fn prefix(
    cache: &Cache,
    prefix: &str,
    out: &mut Output,
) -> Result<Answer, Failure> {
    let progress = Progress::spinner("deleting cache items");
    let deleted = cache.clear_prefix(prefix).await;
    drop(progress);
    told(out, deleted?, "cache items")
}

pub(super) async fn tag(cache: &Cache, tag: &str, out: &mut Output) -> Result<Answer, Failure> {
    let progress = Progress::spinner("deleting cache items");
    let deleted = cache.clear_tag(tag).await;
    drop(progress);
    told(out, deleted?, "cache items")
}

pub(super) async fn expired(cache: &Cache, out: &mut Output) -> Result<Answer, Failure> {
    let what = "deleting expired cache items";
    // Their count costs a query, which is for a bar that somebody sees.
    let progress = if Progress::is_shown() {
        Progress::bar(cache.purge().count().await?, what)
    } else {
        Progress::spinner(what)
    };
    let purge = cache.purge().all_namespaces();
    let deleted = purge
        .on_progress(|deleted| progress.at(deleted))
        .run()
        .await;
    drop(progress);
    told(out, deleted?, "expired cache items")
}

#[derive(Serialize)]
struct Deleted {
    deleted: u64,
}

#[derive(Serialize)]
struct DeletedAndEnqueued {
    deleted: u64,
    enqueued: u64,
}

/// As [`told`], and how many jobs make it anew that were not on their way already.
pub(super) fn rewarmed(out: &mut Output, rewarmed: &Rewarmed) -> Result<Answer, Failure> {
    let enqueued = rewarmed.jobs.iter().filter(|job| job.inserted).count() as u64;
    let shown = DeletedAndEnqueued {
        deleted: rewarmed.items,
        enqueued,
    };
    let text = format!(
        "Deleted {} cache items, enqueued {enqueued} jobs.",
        shown.deleted
    );
    out.show(&shown, text)?;
    Ok((shown.deleted > 0).into())
}

/// `Deleted N cache items.`, or `{"deleted":N}`. The answer is whether there was anything to delete.
pub(super) fn told(out: &mut Output, deleted: u64, what: &str) -> Result<Answer, Failure> {
    out.show(&Deleted { deleted }, format!("Deleted {deleted} {what}."))?;
    Ok((deleted > 0).into())
}
