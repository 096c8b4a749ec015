//! A stream whose other end has to read.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Sleep, sleep},
};

/// Whether a connection waits for its client to read, for as long as that takes.
///
/// An event stream does: what its reader has not read costs nothing. An answer in memory does not.
#[derive(Clone, Debug, Default)]
pub(super) struct Patience(Arc<AtomicBool>);

impl Patience {
    /// Waits as long as what is returned lives.
    pub(super) fn hold(&self) -> Patient {
        self.0.store(true, Ordering::Relaxed);
        Patient(self.clone())
    }

    fn is_held(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// See [`Patience::hold`].
#[derive(Debug)]
pub(super) struct Patient(Patience);

impl Drop for Patient {
    fn drop(&mut self) {
        self.0.0.store(false, Ordering::Relaxed);
    }
}

/// Fails a write that makes no progress for a while, so that a client that never reads its answer
/// holds neither the answer nor its place for ever.
pub(super) struct Impatient<S> {
    stream: S,
    limit: Duration,
    patience: Patience,
    stalled: Option<Pin<Box<Sleep>>>,
}

impl<S> Impatient<S> {
    pub(super) const fn new(stream: S, limit: Duration, patience: Patience) -> Self {
        Self { stream, limit, patience, stalled: None }
    }

    fn watch<T>(
        &mut self,
        cx: &mut Context<'_>,
        progress: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if progress.is_ready() || self.patience.is_held() {
            self.stalled = None;
            return progress;
        }
        let limit = self.limit;
        let timer = self.stalled.get_or_insert_with(|| Box::pin(sleep(limit)));
        match timer.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Impatient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Impatient<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let progress = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.watch(cx, progress)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let progress = Pin::new(&mut self.stream).poll_write_vectored(cx, parts);
        self.watch(cx, progress)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt, duplex},
        time::timeout,
    };

    use super::*;

    const LIMIT: Duration = Duration::from_millis(50);

    #[tokio::test]
    async fn a_write_that_nobody_reads_fails() {
        let (near, _far) = duplex(16);
        let mut stream = Impatient::new(near, LIMIT, Patience::default());
        let error = stream.write_all(&[0; 64]).await.expect_err("stalled");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn a_slow_reader_is_waited_for() {
        let (near, mut far) = duplex(1);
        let mut stream = Impatient::new(near, 4 * LIMIT, Patience::default());
        let reader = tokio::spawn(async move {
            for _ in 0..10 {
                sleep(LIMIT).await;
                far.read_u8().await.expect("a byte");
            }
        });
        stream.write_all(&[0; 10]).await.expect("written");
        reader.await.expect("read");
    }

    #[tokio::test]
    async fn patience_lasts_as_long_as_it_is_held() {
        let (near, _far) = duplex(16);
        let patience = Patience::default();
        let mut stream = Impatient::new(near, LIMIT, patience.clone());
        let held = patience.hold();
        assert!(timeout(4 * LIMIT, stream.write_all(&[0; 64])).await.is_err());
        drop(held);
        assert!(stream.write_all(&[0; 64]).await.is_err());
    }
}
