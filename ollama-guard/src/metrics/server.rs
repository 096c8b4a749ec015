//! The server: accepts, bounds, serves, moves, ends.

use std::{
    collections::VecDeque, convert::Infallible, future::Future, io, net::SocketAddr, pin::pin,
    sync::Arc, time::Duration,
};

use axum::{Router, body::Body};
use hyper::{Request, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::TcpStream,
    sync::{mpsc, oneshot, watch},
    task::{AbortHandle, JoinSet},
    time::{MissedTickBehavior, interval, sleep, timeout},
};
use tower::ServiceExt;

use super::{
    place::{Place, Standing},
    routes,
    source::Source,
};

/// How long to wait when the kernel refuses a connection, usually because the process has no
/// descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);
/// How often an address is tried again that could not be had.
const AGAIN: Duration = Duration::from_secs(2);
/// Bytes of a request's head: the least that hyper takes.
const BUFFER: usize = 8 * 1024;

/// What clients may hold, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections at a time. One more, and the oldest is closed.
    pub connections: usize,
    /// How long the head of a request may take.
    pub header_time: Duration,
    /// How long a connection may take, from its first byte to its last.
    pub connection_time: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 32,
            header_time: Duration::from_secs(5),
            // As long as Prometheus waits by default.
            connection_time: Duration::from_secs(10),
        }
    }
}

/// Has a server listen elsewhere. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Mover {
    moves: mpsc::Sender<Move>,
    standing: watch::Receiver<Standing>,
}

type Move = (Option<SocketAddr>, oneshot::Sender<Standing>);

impl Mover {
    /// Goes to another address, or to none. Returns where metrics are served then: a server that has
    /// ended, nowhere.
    pub async fn go(&self, wanted: Option<SocketAddr>) -> Standing {
        let (reply, answer) = oneshot::channel();
        if self.moves.send((wanted, reply)).await.is_err() {
            return Standing::default();
        }
        answer.await.unwrap_or_default()
    }

    /// Where metrics are served.
    #[must_use]
    pub fn standing(&self) -> Standing {
        self.standing.borrow().clone()
    }
}

/// A place whose server can be moved.
#[derive(Debug)]
pub struct Watched {
    place: Place,
    moves: mpsc::Receiver<Move>,
    standing: watch::Sender<Standing>,
}

/// Makes a place movable.
#[must_use]
pub fn watched(place: Place) -> (Watched, Mover) {
    let (to_moves, moves) = mpsc::channel(1);
    let (to_standing, standing) = watch::channel(place.standing());
    (Watched { place, moves, standing: to_standing }, Mover { moves: to_moves, standing })
}

/// Serves clients until `shutdown` is ready; then closes what is left.
pub async fn serve(
    watched: Watched,
    source: Arc<dyn Source>,
    limits: Limits,
    shutdown: impl Future<Output = ()>,
) {
    let Watched { mut place, mut moves, standing } = watched;
    let mut clients = Clients::new(routes::router(source), limits);
    let mut again = interval(AGAIN);
    again.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut shutdown = pin!(shutdown);
    loop {
        tokio::select! {
            () = &mut shutdown => break,
            accepted = place.accept() => clients.welcome(accepted).await,
            Some((wanted, reply)) = moves.recv() => {
                place.go(wanted);
                standing.send_replace(place.standing());
                // Nobody may be listening any more.
                let _ = reply.send(place.standing());
            }
            _ = again.tick() => if place.try_again() {
                standing.send_replace(place.standing());
            },
            Some(_) = clients.tasks.join_next() => {}
        }
    }
    drop(place);
    clients.tasks.shutdown().await;
}

struct Clients {
    router: Router,
    limits: Limits,
    tasks: JoinSet<()>,
    /// Those of `tasks`, the oldest first, and some that have ended.
    handles: VecDeque<AbortHandle>,
}

impl Clients {
    fn new(router: Router, limits: Limits) -> Self {
        Self { router, limits, tasks: JoinSet::new(), handles: VecDeque::new() }
    }

    async fn welcome(&mut self, accepted: io::Result<TcpStream>) {
        match accepted {
            Ok(stream) => self.admit(stream),
            Err(error) => {
                tracing::warn!(%error, "cannot accept a client of the metrics");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }

    /// A client who has something to say is done within milliseconds; the oldest of many is one who
    /// says nothing.
    fn admit(&mut self, stream: TcpStream) {
        self.handles.retain(|handle| !handle.is_finished());
        if self.handles.len() >= self.limits.connections
            && let Some(oldest) = self.handles.pop_front()
        {
            tracing::debug!("too many clients of the metrics: the oldest is closed");
            oldest.abort();
        }
        let conversation = converse(stream, self.router.clone(), self.limits);
        self.handles.push_back(self.tasks.spawn(conversation));
    }
}

/// One request and its answer.
async fn converse(stream: TcpStream, router: Router, limits: Limits) {
    let service = service_fn(move |request: Request<Incoming>| {
        let answer = router.clone().oneshot(request.map(Body::new));
        async move { Ok::<_, Infallible>(answer.await.unwrap_or_else(|never| match never {})) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_time)
        .keep_alive(false)
        .max_buf_size(BUFFER)
        .serve_connection(TokioIo::new(stream), service);
    match timeout(limits.connection_time, connection).await {
        Ok(Ok(())) => {}
        // The client's fault or its wish; the daemon goes on.
        Ok(Err(error)) => tracing::debug!(%error, "a connection of the metrics ended early"),
        Err(_) => tracing::debug!("a connection of the metrics took too long"),
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use futures_util::future::BoxFuture;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;
    use crate::metrics::{Readiness, Sample};

    /// Knows nothing but that it lives.
    struct Alive;

    impl Source for Alive {
        fn sample(&self) -> BoxFuture<'_, Arc<Sample>> {
            Box::pin(std::future::pending())
        }

        fn ailments(&self) -> Vec<String> {
            Vec::new()
        }

        fn readiness(&self) -> BoxFuture<'_, Arc<Readiness>> {
            Box::pin(std::future::ready(Arc::default()))
        }
    }

    const LIMITS: Limits = Limits {
        connections: 4,
        header_time: Duration::from_millis(300),
        connection_time: Duration::from_millis(600),
    };

    fn server(limits: Limits) -> (Mover, SocketAddr) {
        let port = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = port.local_addr().unwrap();
        drop(port);
        let (watched, mover) = watched(Place::new(Some(address)));
        tokio::spawn(serve(watched, Arc::new(Alive), limits, std::future::pending()));
        (mover, address)
    }

    async fn ask(address: SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    fn get(path: &str) -> String {
        format!("GET {path} HTTP/1.1\r\nHost: guard\r\n\r\n")
    }

    #[tokio::test]
    async fn a_connection_is_one_request() {
        let (_mover, address) = server(Limits::default());
        let answer = ask(address, &get("/healthz").repeat(2)).await;
        assert_eq!(answer.matches("HTTP/1.1 200 OK").count(), 1, "{answer}");
        assert!(
            answer.ends_with("\r\n\r\nok\n") && answer.contains("connection: close"),
            "{answer}"
        );
        assert!(ask(address, &get("/x")).await.starts_with("HTTP/1.1 404"));
        let post = get("/metrics").replace("GET", "POST");
        assert!(ask(address, &post).await.starts_with("HTTP/1.1 405"));
        let long = get(&format!("/{}", "x".repeat(20_000)));
        assert!(ask(address, &long).await.starts_with("HTTP/1.1 4"));
    }

    #[tokio::test]
    async fn clients_who_say_nothing_keep_nobody_out_and_are_closed() {
        let (_mover, address) = server(Limits { header_time: Duration::from_secs(60), ..LIMITS });
        let mut silent = Vec::new();
        for _ in 0..20 {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(b"GET /healthz HT").await.unwrap();
            silent.push(stream);
        }
        assert!(ask(address, &get("/healthz")).await.starts_with("HTTP/1.1 200"));
        for mut stream in silent {
            // The oldest at once, the others when their time is over.
            let mut rest = Vec::new();
            let closed = timeout(Duration::from_secs(5), stream.read_to_end(&mut rest)).await;
            assert!(closed.is_ok(), "a silent connection stays open");
        }
    }

    #[tokio::test]
    async fn a_head_or_an_answer_that_takes_too_long_ends_the_connection() {
        let (_mover, address) = server(LIMITS);
        for request in ["GET /metrics HT", &get("/metrics")] {
            let begun = tokio::time::Instant::now();
            let answer = ask(address, request).await;
            assert!(!answer.contains("200"), "{answer}");
            assert!(begun.elapsed() < Duration::from_secs(3), "{request}");
        }
    }

    #[tokio::test]
    async fn a_server_moves_and_says_where_it_is() {
        let (mover, address) = server(LIMITS);
        assert_eq!(mover.standing().served_at, Some(address));
        assert_eq!(mover.go(None).await, Standing::default());
        assert!(TcpStream::connect(address).await.is_err());
        let back = mover.go(Some(address)).await;
        assert_eq!((back.served_at, back.trouble), (Some(address), None));
        assert!(ask(address, &get("/readyz")).await.ends_with("ok\n"));
    }
}
