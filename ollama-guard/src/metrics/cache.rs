//! An answer that is made once for all who ask at about the same time.

use std::{future::Future, panic::resume_unwind, sync::Arc, time::Duration};

use tokio::{sync::Mutex, time::Instant};

/// How old an answer may become, however cheap it is.
const SHORTEST: Duration = Duration::from_secs(1);
/// An answer is made no more often than that this share of the time goes into it.
const SHARE: u32 = 20;
/// How old it may become, however dear it is.
const LONGEST: Duration = Duration::from_secs(60);

/// Keeps an answer for a second or, if it took long to make, for twenty times as long as that.
#[derive(Debug)]
pub struct Cache<T> {
    kept: Arc<Mutex<Option<Kept<T>>>>,
}

#[derive(Debug)]
struct Kept<T> {
    value: Arc<T>,
    until: Instant,
}

impl<T> Default for Cache<T> {
    fn default() -> Self {
        Self { kept: Arc::default() }
    }
}

impl<T: Send + Sync + 'static> Cache<T> {
    /// The answer, which `make` makes if the kept one is too old. Who asks meanwhile waits for the same
    /// one, and it is made to its end also if all who asked have gone: a client whose patience is
    /// shorter than the work would otherwise start it again and again.
    pub async fn get<F>(&self, make: F) -> Arc<T>
    where
        F: Future<Output = T> + Send + 'static,
    {
        let mut kept = Arc::clone(&self.kept).lock_owned().await;
        if let Some(kept) = kept.as_ref().filter(|kept| Instant::now() < kept.until) {
            return Arc::clone(&kept.value);
        }
        let made = tokio::spawn(async move {
            let begun = Instant::now();
            let value = Arc::new(make.await);
            let age = (begun.elapsed() * SHARE).clamp(SHORTEST, LONGEST);
            *kept = Some(Kept { value: Arc::clone(&value), until: Instant::now() + age });
            value
        });
        match made.await {
            Ok(value) => value,
            Err(error) if error.is_panic() => resume_unwind(error.into_panic()),
            // The runtime ends, and this task with it.
            Err(_) => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::time::{sleep, timeout};

    use super::*;

    static MADE: AtomicUsize = AtomicUsize::new(0);

    async fn number(takes: Duration) -> usize {
        sleep(takes).await;
        MADE.fetch_add(1, Ordering::Relaxed)
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_is_shared_kept_and_finished_without_its_clients() {
        let cache = Cache::default();
        let quick = || number(Duration::from_millis(10));
        let (one, two) = tokio::join!(cache.get(quick()), cache.get(quick()));
        assert_eq!((*one, *two), (0, 0));
        sleep(Duration::from_millis(900)).await;
        assert_eq!(*cache.get(quick()).await, 0);
        sleep(Duration::from_millis(200)).await;
        assert_eq!(*cache.get(quick()).await, 1);
        sleep(SHORTEST).await;
        // A client whose patience ends before the answer is there.
        let slow = || number(Duration::from_secs(2));
        assert!(timeout(Duration::from_secs(1), cache.get(slow())).await.is_err());
        assert_eq!(*cache.get(slow()).await, 2, "made to its end");
        sleep(Duration::from_secs(30)).await;
        assert_eq!(*cache.get(slow()).await, 2, "dear answers are kept longer");
        sleep(Duration::from_secs(10)).await;
        assert_eq!(*cache.get(slow()).await, 3);
    }
}
