use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use super::*;

/// A name server that is told what to say, and that remembers when it was asked.
#[derive(Clone, Default)]
struct Scripted {
    said: Arc<Mutex<BTreeMap<HostName, Result<Answer, String>>>>,
    asked: Arc<Mutex<Vec<(HostName, Instant)>>>,
    has_changed: Arc<AtomicBool>,
}

impl Resolver for Scripted {
    async fn ask(&self, name: HostName) -> Result<Answer, String> {
        self.asked.lock().unwrap().push((name.clone(), Instant::now()));
        let said = self.said.lock().unwrap().get(&name).cloned();
        match said {
            Some(answer) => answer,
            None => std::future::pending().await,
        }
    }

    async fn has_changed(&self) -> bool {
        self.has_changed.swap(false, Ordering::Relaxed)
    }
}

struct Bed {
    server: Scripted,
    wanted: watch::Sender<Wanted>,
    again: watch::Sender<u64>,
    found: mpsc::Receiver<Found>,
}

impl Bed {
    fn start() -> Self {
        let server = Scripted::default();
        let (wanted, wants) = watch::channel(Wanted::default());
        let (again, agains) = watch::channel(0);
        let (to, found) = mpsc::channel(8);
        let room = Room { resolver: server.clone(), wanted: wants, again: agains, found: to };
        tokio::spawn(room.run(std::future::pending()));
        Self { server, wanted, again, found }
    }

    fn say(&self, text: &str, addresses: &[&str], ttl: u64) {
        let addresses = addresses.iter().map(|text| text.parse().unwrap()).collect();
        let answer = Answer { addresses, lasts: Duration::from_secs(ttl) };
        self.server.said.lock().unwrap().insert(name(text), Ok(answer));
    }

    fn want(&self, texts: &[&str]) {
        let names = texts.iter().map(|text| name(text)).collect();
        self.wanted.send_replace(Wanted { names });
    }

    async fn next(&mut self) -> (String, Vec<String>) {
        let found = self.found.recv().await.unwrap();
        let addresses = match found.outcome {
            Ok(addresses) => addresses.iter().map(ToString::to_string).collect(),
            Err(error) => vec![error],
        };
        (found.name.to_string(), addresses)
    }
}

fn name(text: &str) -> HostName {
    text.parse().unwrap()
}

#[tokio::test(start_paused = true)]
async fn an_answer_is_renewed_when_it_runs_out_and_never_within_half_a_minute() {
    let mut bed = Bed::start();
    bed.say("a.example", &["192.0.2.1"], 1);
    bed.want(&["a.example"]);
    let start = Instant::now();
    assert_eq!(bed.next().await.1, ["192.0.2.1"]);
    assert!(start.elapsed() < Duration::from_secs(1));
    bed.say("a.example", &["192.0.2.2", "2001:db8::2"], 86_400);
    assert_eq!(bed.next().await.1, ["192.0.2.2", "2001:db8::2"]);
    let took = start.elapsed();
    assert!((27..=31).contains(&took.as_secs()), "{took:?}");
    bed.next().await;
    let took = start.elapsed();
    assert!((3240..=3640).contains(&took.as_secs()), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_says_nothing_holds_up_nobody_else() {
    let mut bed = Bed::start();
    bed.say("b.example", &["192.0.2.1"], 60);
    bed.want(&["a.example", "b.example"]);
    let start = Instant::now();
    assert_eq!(bed.next().await.0, "b.example");
    assert!(start.elapsed() < Duration::from_secs(1));
    let (name, said) = bed.next().await;
    assert_eq!((name.as_str(), &said[0][..]), ("a.example", "no answer within 20 s"));
}

#[tokio::test(start_paused = true)]
async fn whoever_asks_and_a_file_that_changes_have_all_names_looked_up() {
    let mut bed = Bed::start();
    bed.say("a.example", &["192.0.2.1"], 3600);
    bed.want(&["a.example"]);
    bed.next().await;
    let start = Instant::now();
    bed.again.send_modify(|number| *number += 1);
    bed.next().await;
    assert!(start.elapsed() < Duration::from_secs(1));
    bed.server.has_changed.store(true, Ordering::Relaxed);
    bed.next().await;
    assert!(start.elapsed() < Duration::from_secs(4));
    // Nobody wants it, nobody asks.
    bed.want(&[]);
    tokio::time::sleep(LATEST_SLEEP).await;
    assert_eq!(bed.server.asked.lock().unwrap().len(), 3);
}

const LATEST_SLEEP: Duration = Duration::from_secs(8000);

#[tokio::test(start_paused = true)]
async fn very_many_names_are_looked_up_a_few_at_a_time() {
    let bed = Bed::start();
    let texts: Vec<_> = (0..100).map(|number| format!("a{number}.example")).collect();
    bed.want(&texts.iter().map(String::as_str).collect::<Vec<_>>());
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(bed.server.asked.lock().unwrap().len(), AT_ONCE);
}
