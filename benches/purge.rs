//! Purging half of a cache while somebody writes to it, for `benches/peers/run.sh`: `cargo bench --bench purge --
//! --figures purge|delete ENGINE here|elsewhere ITEMS` prints a line of JSON, in microseconds: what it took in all, and
//! how long the writer's sets took, one after the other, on the purge's own cache or from another process. `delete` is one
//! big DELETE, on the same table, instead.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, missing_docs)]

mod place;

use std::io::Read;
use std::process::Stdio;
use std::time::{Duration, Instant};

use larder::Cache;
use larder::database::Engine;
use place::{Items, Place, connect, engine, scatter, spread};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::Command;
use tokio::sync::watch;

/// Sets items that are live, until told to stop, and says what each took.
async fn write(cache: Cache, items: u64, stop: watch::Receiver<bool>) -> String {
    let mut took = Vec::new();
    while !*stop.borrow() {
        // Of two keys one has expired; this is the other.
        let number = scatter(took.len() as u64) % items / 2 * 2 + 1;
        let began = Instant::now();
        let text = "x".repeat(220);
        cache
            .set(&format!("item:{number}"), &(number, text))
            .await
            .unwrap();
        took.push(began.elapsed());
    }
    spread(took)
}

/// The same in a process of its own, for as long as its input is open.
async fn writer(url: &str, schema: &str, items: u64) {
    let cache = Cache::new(connect(url, schema).await);
    cache.set("item:1", &1).await.unwrap();
    println!("ready");
    let (tell, stop) = watch::channel(false);
    std::thread::spawn(move || {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        let _ = tell.send(true);
    });
    println!("{}", write(cache, items, stop).await);
}

async fn delete(place: &Place) {
    let now = match place.engine {
        Engine::Sqlite => "CAST(unixepoch('subsec') * 1000 AS INTEGER)",
        Engine::Postgres => "now()",
    };
    let sql = format!("DELETE FROM {{}}cached_item WHERE expires_at <= {now}");
    let timeout = match place.engine {
        Engine::Sqlite => "PRAGMA synchronous = NORMAL; PRAGMA busy_timeout = 10000; ",
        Engine::Postgres => "",
    };
    place.execute(&format!("{timeout}{sql}")).await;
}

async fn run(one_delete: bool, engine: Engine, elsewhere: bool, items: u64) {
    let place = Place::new(engine);
    let cache = Cache::new(place.connect().await);
    let expired = 2;
    place
        .fill_items(Items {
            count: items,
            expired,
        })
        .await;
    let work = async {
        // The writer writes before, and after.
        tokio::time::sleep(Duration::from_millis(200)).await;
        let started = Instant::now();
        if one_delete {
            delete(&place).await;
        } else {
            assert_eq!(
                cache.purge().all_namespaces().run().await.unwrap(),
                items / expired
            );
        }
        started.elapsed()
    };
    let (took, waits) = if elsewhere {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--figures", "writer", &place.url, &place.schema])
            .arg(items.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        output.read_line(&mut String::new()).await.unwrap();
        let took = work.await;
        drop(child.stdin.take());
        let mut waits = String::new();
        output.read_to_string(&mut waits).await.unwrap();
        assert!(child.wait().await.unwrap().success());
        (took, waits)
    } else {
        let (tell, stop) = watch::channel(false);
        let writing = tokio::spawn(write(cache.clone(), items, stop));
        let took = work.await;
        tell.send(true).unwrap();
        (took, writing.await.unwrap())
    };
    cache.database().close().await;
    place.end().await;
    let total = took.as_nanos() as f64 / 1e3;
    println!("{{\"total\": {total:.1}, {}}}", waits.trim());
}

fn main() {
    let Some(arguments) = place::figures() else {
        println!("see the head of benches/purge.rs");
        return;
    };
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    match arguments[..] {
        [what @ ("purge" | "delete"), on, by, items] => {
            let (on, elsewhere) = (engine(on), by == "elsewhere");
            runtime.block_on(run(what == "delete", on, elsewhere, items.parse().unwrap()));
        }
        ["writer", url, schema, items] => {
            runtime.block_on(writer(url, schema, items.parse().unwrap()));
        }
        _ => panic!("see the head of benches/purge.rs"),
    }
}
