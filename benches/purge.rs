//! Purging half of a cache while somebody writes to it, for `benches/peers/run.sh`: `cargo bench --bench purge --
//! --figures purge|delete ENGINE here|elsewhere ITEMS` prints a line of JSON, in microseconds: what it took in all, and
//! how long the writer's sets took, one after the other, on the purge's own cache or from another process. `alone` is the
//! longest of those that came before, with nothing beside them, in two seconds. `delete` is one big DELETE, on the same table,
//! instead.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, missing_docs)]

mod place;

use std::io::Read;
use std::process::Stdio;
use std::time::{Duration, Instant};

use larder::Cache;
use larder::database::Engine;
use place::{Items, Place, connect, engine, scatter, spread};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::Command;
use tokio::sync::watch;

/// How long the writer writes with nothing beside it.
const ALONE: Duration = Duration::from_secs(2);

/// What is done beside the writer.
#[derive(Clone, Copy, PartialEq)]
enum Beside {
    Nothing,
    Work,
    Over,
}

/// Sets items that are live, until the work is over, and says what each took.
async fn write(cache: Cache, items: u64, beside: watch::Receiver<Beside>) -> String {
    let (mut alone, mut took, mut count) = (Duration::ZERO, Vec::new(), 0);
    loop {
        let now = *beside.borrow();
        if now == Beside::Over {
            break;
        }
        // Of two keys one has expired; this is the other.
        let number = scatter(count) % items / 2 * 2 + 1;
        count += 1;
        let began = Instant::now();
        let text = "x".repeat(220);
        cache
            .set(&format!("item:{number}"), &(number, text))
            .await
            .unwrap();
        match now {
            Beside::Work => took.push(began.elapsed()),
            _ => alone = alone.max(began.elapsed()),
        }
    }
    let alone = alone.as_nanos() as f64 / 1e3;
    format!("\"alone\": {alone:.2}, {}", spread(took))
}

/// The same in a process of its own: a line says that the work begins, and the end of the input that it is over.
async fn writer(url: &str, schema: &str, items: u64) {
    let cache = Cache::new(connect(url, schema).await);
    cache.set("item:1", &1).await.unwrap();
    println!("ready");
    let (tell, beside) = watch::channel(Beside::Nothing);
    std::thread::spawn(move || {
        let _ = std::io::stdin().read_line(&mut String::new());
        let _ = tell.send(Beside::Work);
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        let _ = tell.send(Beside::Over);
    });
    println!("{}", write(cache, items, beside).await);
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
        let mut input = child.stdin.take().unwrap();
        tokio::time::sleep(ALONE).await;
        input.write_all(b"\n").await.unwrap();
        let took = work.await;
        drop(input);
        let mut waits = String::new();
        output.read_to_string(&mut waits).await.unwrap();
        assert!(child.wait().await.unwrap().success());
        (took, waits)
    } else {
        let (tell, beside) = watch::channel(Beside::Nothing);
        let writing = tokio::spawn(write(cache.clone(), items, beside));
        tokio::time::sleep(ALONE).await;
        tell.send(Beside::Work).unwrap();
        let took = work.await;
        tell.send(Beside::Over).unwrap();
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
