//! The peers of larder that are crates, each at the work that larder is measured at. Each prints a line of JSON:
//!
//! - `rivals graphile-jobs URL JOBS CONCURRENCY LOCAL_QUEUE`
//! - `rivals apalis-sqlite-jobs FOLDER JOBS CONCURRENCY`: the best of several sizes of batch
//! - `rivals apalis-postgres-enqueue URL CLIENTS SECONDS`

mod apalis_postgres;
mod apalis_sqlite;
mod graphile;
mod line;

use std::error::Error;

/// That of larder's side.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    let line = match arguments[..] {
        ["graphile-jobs", url, jobs, concurrency, local_queue] => {
            graphile::jobs(
                url,
                jobs.parse()?,
                concurrency.parse()?,
                local_queue.parse()?,
            )
            .await?
        }
        ["apalis-sqlite-jobs", folder, jobs, concurrency] => {
            apalis_sqlite::jobs(folder.as_ref(), jobs.parse()?, concurrency.parse()?).await?
        }
        ["apalis-postgres-enqueue", url, clients, seconds] => {
            apalis_postgres::enqueue(url, clients.parse()?, seconds.parse()?).await?
        }
        _ => return Err("see the head of benches/peers/rivals/src/main.rs".into()),
    };
    println!("{line}");
    Ok(())
}
