//! Worker processes, and what is done to them.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::history::{Event, now};
use crate::worker::Orders;

/// Sends a signal by its name.
pub(crate) fn signal(name: &str, process: u32) {
    let sent = Command::new("kill")
        .args([&format!("-{name}"), &process.to_string()])
        .status()
        .unwrap();
    assert!(sent.success(), "no process {process} to send {name}");
}

/// Workers, each followed by another when it ends. Dropped, all are killed.
pub(crate) struct Fleet {
    orders: String,
    members: Vec<Member>,
    pub(crate) events: Vec<Event>,
}

struct Member {
    child: Child,
    stopped: Option<(i64, Instant)>,
}

impl Fleet {
    pub(crate) fn start(count: usize, url: &str, log: PathBuf) -> Self {
        let orders = Orders {
            url: url.to_owned(),
            log,
        };
        let orders = serde_json::to_string(&orders).unwrap();
        let members = (0..count).map(|_| Member::start(&orders)).collect();
        Self {
            orders,
            members,
            events: Vec::new(),
        }
    }

    /// Goes on with those whose stop is over, and replaces those that ended.
    pub(crate) fn look_after(&mut self) {
        for member in &mut self.members {
            if member
                .stopped
                .is_some_and(|(_, until)| until <= Instant::now())
            {
                member.go_on(&mut self.events);
            }
            if member.child.try_wait().unwrap().is_some() {
                *member = Member::start(&self.orders);
            }
        }
    }

    pub(crate) fn kill(&mut self, number: usize) {
        let member = &mut self.members[number];
        if member.stopped.is_none() && member.child.try_wait().unwrap().is_none() {
            self.events.push(Event::Killed {
                process: member.child.id(),
                at: now(),
            });
            member.child.kill().unwrap();
        }
    }

    pub(crate) fn stop(&mut self, number: usize, duration: Duration) {
        let member = &mut self.members[number];
        if member.stopped.is_none() && member.child.try_wait().unwrap().is_none() {
            signal("STOP", member.child.id());
            member.stopped = Some((now(), Instant::now() + duration));
        }
    }

    /// Tells one to drain.
    pub(crate) fn drain(&mut self, number: usize) {
        let member = &mut self.members[number];
        if member.stopped.is_none() && member.child.try_wait().unwrap().is_none() {
            signal("TERM", member.child.id());
        }
    }

    pub(crate) fn calm_down(&mut self) {
        for member in &mut self.members {
            member.go_on(&mut self.events);
        }
    }

    /// Ends all, and waits for them.
    pub(crate) fn end(mut self) -> Vec<Event> {
        self.calm_down();
        for number in 0..self.members.len() {
            self.drain(number);
        }
        for member in &mut self.members {
            member.child.wait().unwrap();
        }
        std::mem::take(&mut self.events)
    }
}

impl Member {
    fn start(orders: &str) -> Self {
        let child = Command::new(std::env::current_exe().unwrap())
            .args([
                "a_worker_of_the_fleet",
                "--exact",
                "--ignored",
                "--nocapture",
                "--test-threads=1",
            ])
            .env("LARDER_CHAOS_ORDERS", orders)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self {
            child,
            stopped: None,
        }
    }

    fn go_on(&mut self, events: &mut Vec<Event>) {
        if let Some((from, _)) = self.stopped.take() {
            signal("CONT", self.child.id());
            events.push(Event::Stopped {
                process: self.child.id(),
                from,
                until: now(),
            });
        }
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        for member in &mut self.members {
            // It may have ended already.
            let _ = member.child.kill();
            let _ = member.child.wait();
        }
    }
}
