//! The loops against a server of this file that answers at once, but for one stall.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::AtomicUsize;

use super::*;
use crate::endpoint::Endpoint;
use crate::http::{Connection, Payload};

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n";
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// Answers every request at once; the one of this number, and all that come meanwhile, only
/// after `stall`.
fn stalling_server(stall_at: usize, stall: Duration) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let asked = Arc::new(AtomicUsize::new(0));
    let gate = Arc::new(Mutex::new(()));
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (asked, gate) = (Arc::clone(&asked), Arc::clone(&gate));
            let mut stream = stream.expect("a client");
            stream.set_nodelay(true).expect("a socket");
            thread::spawn(move || {
                let mut request = [0; REQUEST.len()];
                while stream.read_exact(&mut request).is_ok() {
                    let all_wait = gate.lock().expect("the gate");
                    if asked.fetch_add(1, Ordering::Relaxed) == stall_at {
                        thread::sleep(stall);
                    }
                    drop(all_wait);
                    if stream.write_all(ANSWER).is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

struct Asker {
    address: SocketAddr,
    connection: Option<Connection>,
    left: Option<u64>,
}

impl Asker {
    fn several(count: usize, address: SocketAddr, left: Option<u64>) -> Vec<Asker> {
        let asker = |_| Asker {
            address,
            connection: None,
            left,
        };
        (0..count).map(asker).collect()
    }
}

impl Work for Asker {
    async fn open(&mut self) {
        let endpoint = Endpoint {
            url: String::new(),
            host: String::new(),
            addresses: vec![self.address],
            tls: None,
        };
        self.connection = Connection::open(&endpoint).await.ok();
    }

    async fn perform(&mut self) -> Step {
        if let Some(left) = &mut self.left {
            if *left == 0 {
                return Step::Exhausted;
            }
            *left -= 1;
        }
        let connection = self.connection.as_mut().expect("it was opened");
        connection.send(REQUEST, Payload::NONE).await.expect("sent");
        let head = connection.head().await.expect("an answer");
        let bytes = connection.body(&head, |_| ()).await.expect("a body");
        Step::Done(Done {
            series: 0,
            bytes,
            items: 0,
        })
    }
}

struct Nobody;
impl Observer for Nobody {}

fn plan(rate: Option<f64>, warmup_ms: u64, duration_ms: u64) -> Plan {
    Plan {
        threads: 2,
        warmup: Duration::from_millis(warmup_ms),
        duration: Some(Duration::from_millis(duration_ms)),
        rate,
        series: 1,
        ends_at_failure: false,
    }
}

/// A stall of 600 ms in a run of 2 s at 1,000 requests per second: the requests that were due
/// meanwhile waited for 300 ms on average, though two slots can have had only two under way.
/// On a machine that is slow besides, all of this gets longer and never shorter.
#[test]
fn a_stall_shows_for_every_request_that_was_due_in_it() {
    let address = stalling_server(500, Duration::from_millis(600));
    let work = Asker::several(2, address, None);
    let outcome = run(
        &plan(Some(1000.0), 0, 2000),
        work,
        &Stop::new(),
        &mut Nobody,
    )
    .expect("an outcome");
    assert_eq!(
        outcome.latencies.count(),
        2000,
        "every due request counts once"
    );
    assert_eq!(outcome.succeeded() + outcome.unsent, 2000);
    let slow = outcome.latencies.quantile_ns(0.999);
    assert!(slow >= 550_000_000, "p99.9 hides the stall: {slow} ns");
    // 600 of 2,000 were due in the stall, half of these in its first half.
    let eighth = outcome.latencies.quantile_ns(1.0 - 0.125);
    assert!(eighth >= 300_000_000, "an eighth waited long: {eighth} ns");
    assert!(outcome.send_delay.max_ns() >= 500_000_000);
}

/// The same stall without a rate: two requests saw it, of thousands. That is what a closed loop
/// does not tell, and why it is named in the report.
#[test]
fn a_closed_loop_sees_a_stall_once_per_slot() {
    let address = stalling_server(500, Duration::from_millis(600));
    let work = Asker::several(2, address, None);
    let outcome = run(&plan(None, 0, 2000), work, &Stop::new(), &mut Nobody).expect("an outcome");
    assert!(outcome.latencies.max_ns() >= 590_000_000);
    let slow = outcome.series[0].latencies.clone();
    assert!(slow.count() > 1000 && slow.quantile_ns(0.99) < 550_000_000);
    assert_eq!((outcome.unsent, outcome.send_delay.count()), (0, 0));
}

/// A server that stalls to the end: what was due and could not be sent is not forgotten.
#[test]
fn requests_that_were_never_sent_count_with_their_wait() {
    let address = stalling_server(100, Duration::from_millis(1500));
    let work = Asker::several(4, address, None);
    let outcome = run(
        &plan(Some(1000.0), 0, 1000),
        work,
        &Stop::new(),
        &mut Nobody,
    )
    .expect("an outcome");
    assert!(outcome.unsent >= 700, "{} unsent", outcome.unsent);
    assert_eq!(outcome.latencies.count(), 1000);
    assert!(outcome.latencies.quantile_ns(0.5) >= 300_000_000);
    assert!(
        outcome.elapsed >= Duration::from_millis(1400),
        "until the last answer"
    );
}

#[test]
fn the_warm_up_does_not_count() {
    let address = stalling_server(10, Duration::from_millis(300));
    let work = Asker::several(2, address, None);
    let outcome = run(
        &plan(Some(200.0), 1000, 500),
        work,
        &Stop::new(),
        &mut Nobody,
    )
    .expect("an outcome");
    assert_eq!(outcome.latencies.count(), 100);
}

#[test]
fn it_ends_with_the_work() {
    let address = stalling_server(usize::MAX, Duration::ZERO);
    let mut plan = plan(None, 0, 0);
    plan.duration = None;
    let work = Asker::several(3, address, Some(7));
    let outcome = run(&plan, work, &Stop::new(), &mut Nobody).expect("an outcome");
    assert_eq!((outcome.succeeded(), outcome.stopped), (21, false));
    assert_eq!(outcome.series[0].bytes, 42);
}

/// Asked to stop while the server does not answer: the end comes after the grace, with what
/// was under way told.
#[test]
fn a_stop_does_not_wait_for_a_server_that_hangs() {
    let address = stalling_server(5, Duration::from_secs(60));
    let stop = Stop::new();
    let asked = stop.clone();
    thread::spawn(move || {
        thread::sleep(Duration::from_millis(300));
        asked.ask();
    });
    let work = Asker::several(2, address, None);
    let outcome = run(&plan(None, 0, 50_000), work, &stop, &mut Nobody).expect("an outcome");
    assert!(outcome.stopped && outcome.elapsed < Duration::from_secs(20));
    assert_eq!(outcome.abandoned, 2);
    assert!(outcome.succeeded() >= 3);
}
