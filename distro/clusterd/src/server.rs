//! From the command line to a running server or agent, and down again: the whole walk in [`run`].

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant, SystemTime};

use rustix::fs::FlockOperation;
use signal_hook::consts::{SIGINT, SIGTERM};
use slipway_images::seed::{Datastore, Role, Seed};

use crate::access::Access;
use crate::balancer::Balancer;
use crate::board::{Board, Facts, State};
use crate::component::{Name, component};
use crate::error::{Context, Error, read_if_there};
use crate::identity::{Affected, Identity};
use crate::keeper::Keeper;
use crate::log::info;
use crate::network::{self, Changes};
use crate::notify::Notify;
use crate::options::{self, Config, Options};
use crate::paths::Paths;
use crate::probe::Credentials;
use crate::work::{begin_agent_work, begin_server_work, spawn};
use crate::{agent, datastore, files, joining, node, overlay, pods, status};

/// How long a killed predecessor's components may take to let go of their ports.
const PORT_PATIENCE: Duration = Duration::from_secs(3);

/// What the main thread waits for.
#[derive(Debug)]
pub enum Event {
    /// SIGTERM or SIGINT.
    Stop,
    /// Addresses or routes changed.
    Network,
}

/// Runs a server, or an agent of one, until it is asked to stop.
pub fn run(options: &Options) -> Result<(), Error> {
    let (sender, events) = channel();
    catch_signals(sender.clone())?;
    let paths = Paths::new(&options.root);
    paths.create()?;
    let _lock = lock(&paths)?;
    let seed = read_seed(options, &paths)?;
    let changes = Changes::listen()?;
    let mut config = configure(options, paths, seed, &changes)?;
    if !config.control_plane_only {
        config.paths.create_for_node()?;
    }
    check_ports(&config)?;
    let Some((identity, balancer)) = open(&mut config, &events)? else {
        return Ok(());
    };
    files::write(&config)?;

    let board = Arc::new(Board::new(Name::of(&config)));
    let credentials = credentials(&config, &identity)?;
    let access = Arc::new(Access::new(config.api_url(), credentials.clone()));
    let kubelets = Arc::new(Access::new(
        config.api_url(),
        kubelets_credentials(&config, &identity)?,
    ));
    let teller = spawn("status", &config, &board, |config, board| {
        status::tell(config, Arc::clone(board), Notify::from_environment());
    })?;
    let mut keepers = start(&config, &credentials, &board)?;
    match balancer {
        None => begin_server_work(&config, &identity, &access, &board)?,
        Some(balancer) => begin_agent_work(&config, balancer, &access, &board)?,
    }
    if !config.control_plane_only {
        let for_node = Arc::clone(&kubelets);
        spawn("node", &config, &board, move |config, board| {
            node::follow(config, &for_node, board)
        })?;
        let for_overlay = Arc::clone(&access);
        spawn("overlay", &config, &board, move |config, board| {
            overlay::follow(config, &for_overlay, board)
        })?;
    }
    watch_network(changes, sender, config.control_plane_only)?;

    let accesses = [access.as_ref(), kubelets.as_ref()];
    tend(&mut config, &identity, accesses, &keepers, &board, &events);

    stop(&config, &mut keepers, &board)?;
    if teller.join().is_err() {
        info!("the status thread panicked");
    }
    Ok(())
}

/// Whom certificates are from, and an agent's way to the API.
type Opened = (Identity, Option<Arc<Balancer>>);

/// A server's own certificates and datastore, or an agent's from its cluster, with the way
/// there; `None` when it is asked to stop meanwhile.
fn open(config: &mut Config, events: &Receiver<Event>) -> Result<Option<Opened>, Error> {
    if config.is_server() {
        let identity = Identity::open(config, SystemTime::now())?;
        identity.refresh(config, SystemTime::now())?;
        joining::prepare(config, identity.cluster_ca_pem())?;
        datastore::prepare(config)?;
        return Ok(Some((identity, None)));
    }
    let balancer = Balancer::start(config)?;
    let joined = agent::join(config, &balancer, events)?;
    Ok(joined.map(|identity| (identity, Some(balancer))))
}

/// Turns signals into events.
fn catch_signals(sender: Sender<Event>) -> Result<(), Error> {
    let mut signals = signal_hook::iterator::Signals::new([SIGTERM, SIGINT])
        .context(|| "catch signals".to_owned())?;
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            for _ in signals.forever() {
                if sender.send(Event::Stop).is_err() {
                    // The main thread is on its way out already, or still starting and failed.
                    return;
                }
            }
        })
        .map(drop)
        .context(|| "start a thread for signals".to_owned())
}

/// Makes sure that there is one clusterd per root; held while the file is open.
fn lock(paths: &Paths) -> Result<File, Error> {
    let path = paths.lock();
    let action = || format!("lock {}", path.display());
    let file = File::options()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(&path)
        .context(action)?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(Error::InUse(format!(
            "another clusterd runs on {}; stop it first",
            paths.root().display()
        ))),
        Err(error) => Err(error).context(action),
    }
}

fn read_seed(options: &Options, paths: &Paths) -> Result<Seed, Error> {
    let path = options.seed.clone().unwrap_or_else(|| paths.seed());
    let Some(bytes) = read_if_there(&path)? else {
        info!("no seed at {}; using defaults", path.display());
        return Ok(Seed::default());
    };
    let text = String::from_utf8(bytes)
        .map_err(|_| Error::Seed(format!("{} is no text", path.display())))?;
    Seed::from_json(&text).map_err(|error| Error::Seed(format!("{}: {error}", path.display())))
}

/// What this version can be.
fn check_role(seed: &Seed) -> Result<(), Error> {
    let cluster = &seed.cluster;
    if cluster.role == Role::Agent {
        return Ok(());
    }
    if cluster.datastore == Datastore::Etcd && cfg!(target_pointer_width = "32") {
        return Err(Error::Seed(
            "etcd doesn't run on 32-bit processors (its authors don't support it): leave `datastore` out for SQLite on this server, or make this machine an agent of a server with 64 bits".to_owned(),
        ));
    }
    // To begin a cluster of its own is the last that a machine which shall join may do.
    if !cluster.servers.is_empty() {
        return Err(Error::Seed(
            "the seed has servers to join as another server, which this version can't; use role: agent, or leave `servers` out to begin a cluster".to_owned(),
        ));
    }
    if cluster.datastore != Datastore::Sqlite {
        return Err(Error::Seed(
            "the seed's datastore isn't sqlite, which is the only one that this version runs"
                .to_owned(),
        ));
    }
    Ok(())
}

fn configure(
    options: &Options,
    paths: Paths,
    seed: Seed,
    changes: &Changes,
) -> Result<Config, Error> {
    check_role(&seed)?;
    let node_address = match options.tuning.node_address {
        Some(address) => address,
        None if options.control_plane_only => network::own_address(seed.cluster.node_address)
            .unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        None => network::wait_for_address(changes, seed.cluster.node_address)?,
    };
    Ok(Config {
        paths,
        seed,
        node_name: options
            .tuning
            .node_name
            .clone()
            .map_or_else(options::node_name, Ok)?,
        node_address,
        control_plane_only: options.control_plane_only,
        bin: options.bin.clone(),
        tuning: options.tuning.clone(),
    })
}

/// Refuses to start where somebody else listens. Without this a component would end again
/// and again, and its log would have to be read to know why.
fn check_ports(config: &Config) -> Result<(), Error> {
    let ports = config.tuning.ports;
    let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let mut all = Vec::new();
    if config.is_server() {
        all.extend([
            (Name::ApiServer, config.bind_address(), ports.api),
            (Name::ControllerManager, loopback, ports.controller_manager),
            (Name::Scheduler, loopback, ports.scheduler),
        ]);
    }
    if !config.control_plane_only {
        all.push((
            Name::Kubelet,
            IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            ports.kubelet,
        ));
        all.push((Name::KubeProxy, loopback, ports.proxy_health));
        all.push((Name::KubeProxy, loopback, ports.proxy_metrics));
    }
    let until = Instant::now() + PORT_PATIENCE;
    for (name, address, port) in all {
        loop {
            match TcpListener::bind((address, port)) {
                Ok(_) => break,
                Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
                    if Instant::now() >= until {
                        return Err(Error::InUse(format!(
                            "port {port}, which {name} needs, is in use by another program; stop that one (ss -ltnp shows it)"
                        )));
                    }
                    std::thread::sleep(Duration::from_millis(50));
                }
                Err(error) => return Err(error).context(|| format!("listen on port {port}")),
            }
        }
    }
    Ok(())
}

fn credentials(config: &Config, identity: &Identity) -> Result<Credentials, Error> {
    Ok(Credentials {
        ca_pem: identity.cluster_ca_pem().to_owned(),
        own: identity.own(config)?,
    })
}

/// Who may read the node's object and pods: on an agent the kubelet, and not the agent itself.
fn kubelets_credentials(config: &Config, identity: &Identity) -> Result<Credentials, Error> {
    let own = credentials(config, identity)?;
    if config.is_server() {
        return Ok(own);
    }
    Ok(Credentials {
        own: identity.kubelet(config)?,
        ..own
    })
}

fn start(
    config: &Config,
    credentials: &Credentials,
    board: &Arc<Board>,
) -> Result<Vec<Keeper>, Error> {
    Name::of(config)
        .iter()
        .map(|name| {
            let component = component(config, *name);
            Keeper::start(
                component,
                credentials.clone(),
                Arc::clone(board),
                &config.paths,
            )
        })
        .collect()
}

/// Turns changes of the network into events; a bare control plane is not concerned.
fn watch_network(
    changes: Changes,
    sender: Sender<Event>,
    control_plane_only: bool,
) -> Result<(), Error> {
    if control_plane_only {
        return Ok(());
    }
    std::thread::Builder::new()
        .name("network".to_owned())
        .spawn(move || {
            loop {
                if let Err(error) = changes.wait(None) {
                    info!("{error}; a change of the node's address needs a restart now");
                    return;
                }
                if sender.send(Event::Network).is_err() {
                    return;
                }
            }
        })
        .map(drop)
        .context(|| "start a thread for the network".to_owned())
}

/// Keeps certificates young and true to the node's address, until asked to stop.
fn tend(
    config: &mut Config,
    identity: &Identity,
    accesses: [&Access; 2],
    keepers: &[Keeper],
    board: &Board,
    events: &Receiver<Event>,
) {
    loop {
        match events.recv_timeout(config.tuning.certificate_interval) {
            Ok(Event::Stop) | Err(RecvTimeoutError::Disconnected) => return,
            Ok(Event::Network) => {
                // Pods come and go with changes of their own: only the node's address counts.
                match network::own_address(config.seed.cluster.node_address) {
                    Some(address) if address != config.node_address => {
                        info!("the node's address changed to {address}");
                        config.node_address = address;
                    }
                    _ => continue,
                }
            }
            Err(RecvTimeoutError::Timeout) => {}
        }
        let renewed = renew(config, identity, accesses, keepers, board);
        board.note("certificates", &renewed);
        if let Err(error) = renewed {
            info!("certificates: {error}");
        }
    }
}

/// Renews what is due, and restarts who uses it, one after the other.
fn renew(
    config: &Config,
    identity: &Identity,
    [access, kubelets]: [&Access; 2],
    keepers: &[Keeper],
    board: &Board,
) -> Result<(), Error> {
    let mut affected: Affected = identity.refresh(config, SystemTime::now())?;
    affected.extend(files::write(config)?);
    let credentials = credentials(config, identity)?;
    access.replace(credentials.clone());
    kubelets.replace(kubelets_credentials(config, identity)?);
    for keeper in keepers {
        let name = keeper.name();
        let component = component(config, name);
        let restart = affected.contains(&name) || keeper.differs(&component);
        keeper.replace(component, credentials.clone(), restart)?;
        if !restart {
            continue;
        }
        info!("restarting {name}");
        let is = |state| move |facts: &Facts| facts.stopping || facts.is(name, state);
        // It leaves `Up` first; a component that is slow to come back doesn't hold up the rest.
        board.wait_for(Duration::from_secs(30), |facts| !is(State::Up)(facts));
        board.wait_for(Duration::from_secs(120), is(State::Up));
    }
    Ok(())
}

/// Ends everything in the reverse order of starting.
fn stop(config: &Config, keepers: &mut Vec<Keeper>, board: &Board) -> Result<(), Error> {
    board.update(|facts| facts.stopping = true);
    let machine_goes_down = config.paths.shutdown_mark().exists();
    while let Some(mut keeper) = keepers.pop() {
        let name = keeper.name();
        keeper.stop()?;
        // Now nobody starts them again, and the API is still there for their last words.
        if name == Name::Kubelet && machine_goes_down {
            pods::end(std::path::Path::new(pods::KUBEPODS))?;
        }
    }
    info!("stopped");
    Ok(())
}
