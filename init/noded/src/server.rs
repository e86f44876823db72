//! Connections: taken, bounded, served.
//!
//! | what | limit |
//! |---|---|
//! | connections at a time | 256; when full, the oldest without a client certificate gives way |
//! | TLS handshake, a request's head, a request's body | 10 s each |
//! | a connection without a client certificate | 20 s in all |
//! | a request's head | 16 KiB, 64 headers |
//! | a request's body | 4 MiB |
//! | answers that flow (logs, events, support) at a time | 32 |
//! | shells at a time | 8 |
//! | answers under way when the machine stops | 2 s to be done |

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hyper::StatusCode;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use rustls::ServerConfig;
use slipway_images::info::ImageInfo;
use slipway_images::node::PORT;
use slipway_images::node::discovery::Advert;
use slipway_images::seed::Seed;
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::AbortHandle;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use crate::answer::Refusal;
use crate::error::{Context as _, Error};
use crate::identity::{self, Identity, Origin};
use crate::mdns::records::Facts;
use crate::notice;
use crate::options::{Options, Tuning};
use crate::paths::Paths;
use crate::update::Updates;
use crate::{firmware, mdns, routes, tls};

/// Connections at a time.
const CONNECTIONS: usize = 256;
const HEAD_LIMIT: usize = 16 << 10;
const HEADERS: usize = 64;
const FLOWS: usize = 32;
const SHELLS: usize = 8;
/// For answers under way when the process is told to end: whoever asked for a reboot is to
/// hear that it comes. Some answers never end by themselves.
const FAREWELL: Duration = Duration::from_secs(2);

/// What all requests share.
pub struct App {
    /// Where everything is.
    pub paths: Paths,
    /// What tests change.
    pub tuning: Tuning,
    /// The node's updates.
    pub updates: Updates,
    /// What is known of the firmware.
    pub firmware: firmware::Known,
    /// Permits of answers that flow.
    flows: Arc<Semaphore>,
    /// Permits of shells.
    shells: Arc<Semaphore>,
    /// How TLS is done for the next connection.
    tls: RwLock<Arc<ServerConfig>>,
    /// Whether no more is answered. Each connection listens to it, and so is counted by it.
    leaving: watch::Sender<bool>,
    /// What the node says of itself on its networks.
    facts: watch::Sender<Facts>,
    /// When the image was built: now is not before.
    built: SystemTime,
}

impl App {
    /// The machine's name.
    #[must_use]
    pub fn name(&self) -> String {
        host_name()
    }

    /// Whom new connections meet from now on.
    ///
    /// # Errors
    /// [`Error::Tls`]; then all stays as it was.
    pub fn take_identity(&self, identity: &Identity) -> Result<(), Error> {
        let config = tls::config(identity, self.built)?;
        *self.tls.write().unwrap_or_else(PoisonError::into_inner) = config;
        let fingerprint = identity.fingerprint();
        self.facts
            .send_modify(|facts| facts.advert.fingerprint = fingerprint);
        Ok(())
    }

    /// Room for an answer that flows.
    ///
    /// # Errors
    /// 503 when there are too many already.
    pub fn flow(&self) -> Result<OwnedSemaphorePermit, Refusal> {
        permit(
            &self.flows,
            "logs and events are being followed by too many",
        )
    }

    /// Room for a shell.
    ///
    /// # Errors
    /// 503 when there are too many already.
    pub fn shell(&self) -> Result<OwnedSemaphorePermit, Refusal> {
        permit(&self.shells, "too many shells are open")
    }

    /// Does work that may wait for a disk, beside the loop that serves everybody.
    ///
    /// # Errors
    /// 500 if it was broken off.
    pub async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Refusal> {
        tokio::task::spawn_blocking(work)
            .await
            .map_err(|error| Refusal::failed(error.to_string()))
    }
}

fn permit(from: &Arc<Semaphore>, full: &str) -> Result<OwnedSemaphorePermit, Refusal> {
    Arc::clone(from).try_acquire_owned().map_err(|_| {
        Refusal::new(
            StatusCode::SERVICE_UNAVAILABLE,
            format!("{full}; try again later"),
        )
    })
}

/// The machine's name.
fn host_name() -> String {
    nix::unistd::gethostname().map_or_else(
        |_| "node".to_owned(),
        |name| name.to_string_lossy().into_owned(),
    )
}

/// Serves until the process is told to end (SIGTERM), and then what is asked already.
///
/// # Errors
/// When there is no identity, no port or no runtime to be had.
pub fn run(options: Options) -> Result<(), Error> {
    raise_file_limit();
    let paths = Paths::new(&options.root, options.seed.as_deref());
    let image = ImageInfo::read(&paths.image_info())
        .map_err(|error| notice!("{error}"))
        .ok();
    let built = (image.as_ref())
        .and_then(|info| u64::try_from(info.built).ok())
        .map_or(UNIX_EPOCH, |seconds| {
            UNIX_EPOCH + Duration::from_secs(seconds)
        });
    let (identity, origin) = identity::choose(&paths, &host_name(), built)?;
    notice!(
        "{}",
        match origin {
            Origin::Seed => "the seed says whom to let in",
            Origin::Kept => "the seed in force has no node-api: an earlier one says whom to let in",
            Origin::Own =>
                "no seed has said whom to let in: only /healthz answers; give slipway.node-api in the seed",
        }
    );
    let app = Arc::new(App {
        tls: RwLock::new(tls::config(&identity, built)?),
        updates: Updates::new(paths.clone(), options.tuning.clone()),
        firmware: firmware::Known::default(),
        tuning: options.tuning,
        flows: Arc::new(Semaphore::new(FLOWS)),
        shells: Arc::new(Semaphore::new(SHELLS)),
        leaving: watch::Sender::new(false),
        facts: watch::Sender::new(Facts {
            port: PORT,
            advert: advert(image, identity::read_seed(&paths), &identity),
        }),
        paths,
        built,
    });
    // One thread serves; those that wait for disks and shells are bounded by the permits.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .max_blocking_threads(FLOWS + SHELLS + 8)
        .thread_stack_size(512 << 10)
        .build()
        .context(|| "start the runtime".to_owned())?;
    let served = runtime.block_on(async {
        let mut told =
            signal(SignalKind::terminate()).context(|| "listen to SIGTERM".to_owned())?;
        let listener = listen(&options.listen).await?;
        let address = listener
            .local_addr()
            .context(|| "read the listening address".to_owned())?;
        notice!("listening on {address}");
        app.facts.send_modify(|facts| facts.port = address.port());
        if let Err(refusal) = app.updates.look_after() {
            notice!("{}", refusal.error);
        }
        tokio::spawn(mdns::run(
            app.paths.clone(),
            host_name(),
            app.facts.subscribe(),
            app.leaving.subscribe(),
            address.ip().is_unspecified(),
        ));
        tokio::select! {
            failed = accept(listener, Arc::clone(&app)) => failed,
            _ = told.recv() => {
                app.leaving.send_replace(true);
                drop(timeout(FAREWELL, app.leaving.closed()).await);
                Ok(())
            }
        }
    });
    // Threads that wait for a disk or a shell don't keep the process.
    runtime.shutdown_background();
    served
}

/// What the node says of itself to everybody: nothing that is a secret.
fn advert(image: Option<ImageInfo>, seed: Option<Seed>, identity: &Identity) -> Advert {
    let (version, board) = image.map(|i| (i.version, i.board)).unzip();
    let cluster = seed.map(|seed| seed.cluster);
    Advert {
        version,
        board,
        role: cluster.as_ref().map(|c| c.role.word().to_owned()),
        cluster: cluster.map(|c| c.name),
        fingerprint: identity.fingerprint(),
    }
}

/// The default of 1024 descriptors is less than connections and files may need.
fn raise_file_limit() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard.min(4096), hard));
    if let Err(error) = raised {
        notice!("raising the limit of open files: {error}");
    }
}

async fn listen(addresses: &[SocketAddr]) -> Result<TcpListener, Error> {
    let mut last = None;
    for address in addresses {
        match TcpListener::bind(address).await {
            Ok(listener) => return Ok(listener),
            Err(source) => {
                last = Some(Error::Io {
                    action: format!("listen on {address}"),
                    source,
                });
            }
        }
    }
    Err(last.unwrap_or_else(|| Error::Usage("nowhere to listen".to_owned())))
}

async fn accept(listener: TcpListener, app: Arc<App>) -> Result<(), Error> {
    let connections = Connections::default();
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => connections.take(stream, peer, &app),
            Err(error) => {
                // Out of descriptors or memory: somebody gives way, and the next may come.
                notice!("accepting a connection: {error}");
                connections.give_way(0);
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

/// The connections there are, oldest first.
#[derive(Clone, Default)]
struct Connections(Arc<Mutex<Book>>);

#[derive(Default)]
struct Book {
    next: u64,
    open: BTreeMap<u64, Entry>,
}

struct Entry {
    known: Arc<AtomicBool>,
    abort: AbortHandle,
}

impl Connections {
    fn book(&self) -> MutexGuard<'_, Book> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the oldest connections of strangers until fewer than `most` are left. Gives
    /// whether that many are.
    fn give_way(&self, most: usize) -> bool {
        let mut book = self.book();
        while book.open.len() >= most.max(1) {
            let stranger = book
                .open
                .iter()
                .find(|(_, entry)| !entry.known.load(Ordering::Relaxed))
                .map(|(id, _)| *id);
            let Some(entry) = stranger.and_then(|id| book.open.remove(&id)) else {
                return false;
            };
            entry.abort.abort();
            if most == 0 {
                break;
            }
        }
        true
    }

    fn take(&self, stream: TcpStream, peer: SocketAddr, app: &Arc<App>) {
        if !self.give_way(CONNECTIONS) {
            // All are known: the newcomer has to come again.
            return;
        }
        let known = Arc::new(AtomicBool::new(false));
        let mut book = self.book();
        let id = book.next;
        book.next += 1;
        let (all, app, flag) = (self.clone(), Arc::clone(app), Arc::clone(&known));
        let task = tokio::spawn(async move {
            serve(stream, peer, app, &flag).await;
            all.book().open.remove(&id);
        });
        let abort = task.abort_handle();
        book.open.insert(id, Entry { known, abort });
    }
}

/// One connection, from its handshake to its end. Whatever goes wrong concerns the other side
/// alone; it isn't logged, as anybody could fill the log with it.
async fn serve(stream: TcpStream, peer: SocketAddr, app: Arc<App>, known: &AtomicBool) {
    let mut leaving = app.leaving.subscribe();
    let config = Arc::clone(&app.tls.read().unwrap_or_else(PoisonError::into_inner));
    let handshake = TlsAcceptor::from(config).accept(stream);
    let Ok(Ok(stream)) = timeout(app.tuning.patience, handshake).await else {
        return;
    };
    let caller = tls::caller(stream.get_ref().1.peer_certificates());
    let stranger = caller.is_none();
    known.store(!stranger, Ordering::Relaxed);
    let (patience, limit) = (app.tuning.patience, app.tuning.stranger);
    let service = service_fn(move |request| {
        let (app, caller) = (Arc::clone(&app), caller.clone());
        async move { Ok::<_, Infallible>(routes::answer(app, caller, peer, request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(patience)
        .max_buf_size(HEAD_LIMIT)
        .max_headers(HEADERS)
        .keep_alive(!stranger)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let mut connection = pin!(connection);
    let whole = async {
        tokio::select! {
            done = connection.as_mut() => done,
            () = told(&mut leaving) => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        }
    };
    if stranger {
        drop(timeout(limit, whole).await);
    } else {
        drop(whole.await);
    }
}

/// Comes when the process is to end.
async fn told(leaving: &mut watch::Receiver<bool>) {
    // What it gives is locked; and a sender that is gone means the same.
    drop(leaving.wait_for(|leaving| *leaving).await);
}
