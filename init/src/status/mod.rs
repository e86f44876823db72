//! The status page: on a screen a page that is drawn over and over in its place, on a serial
//! line some lines in the log whenever something has changed.
//!
//! A thread of its own draws. The main loop hands it a picture of everything and never waits;
//! a terminal that takes nothing costs the thread two seconds and the page a frame. A screen
//! is there if the kernel has a virtual terminal among its consoles. The page has the first;
//! the kernel's messages, and the log if that is where it goes, move to the second, so that
//! they don't tear it.

mod page;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use slipway_images::info::{IMAGE_INFO_PATH, ImageInfo};
use slipway_images::node::{API_FILE, Boot};

use crate::consoles::Consoles;
use crate::{log, say, slots, sys};
use page::{Image, Page, Trouble, trouble};

/// How long the boot may take to say whether a page is wanted.
const UNDECIDED: Duration = Duration::from_secs(15);
/// How often a screen is drawn though nothing has changed: what others write goes away.
const REDRAW: Duration = Duration::from_secs(5);
/// Changes are waited for so long before they are put into the log...
const QUIET: Duration = Duration::from_secs(3);
/// ...and it is not done more often than this.
const PAUSE: Duration = Duration::from_secs(30);
/// The terminals for the page and for messages, below the root.
const PAGE_TTY: &str = "dev/tty1";
const MESSAGES_TTY: &str = "dev/tty2";
const MESSAGES_NUMBER: u8 = 2;

enum Item {
    Boot(Box<Boot>),
    Wanted(bool),
}

/// The way to the thread.
pub struct StatusPage {
    sender: Option<SyncSender<Item>>,
    told: Boot,
}

impl StatusPage {
    /// Starts the thread, for the system whose devices and files are below `root`. Without
    /// one the machine runs and there is no page.
    pub fn start(root: PathBuf) -> Self {
        let (sender, receiver) = sync_channel(4);
        let thread = std::thread::Builder::new()
            .name("status page".into())
            .stack_size(128 << 10)
            .spawn(move || Drawer::new(root).run(&receiver));
        if let Err(error) = &thread {
            say!("no status page: {error}");
        }
        Self {
            sender: thread.is_ok().then_some(sender),
            told: Boot::default(),
        }
    }

    /// Shows how things are, if that is new. Never waits.
    pub fn tell(&mut self, boot: &Boot) {
        if *boot != self.told && self.send(Item::Boot(Box::new(boot.clone()))) {
            self.told = boot.clone();
        }
    }

    /// Whether a page is wanted at all.
    pub fn wanted(&self, wanted: bool) {
        // Each boot asks once, and the thread begins with an empty queue.
        if !self.send(Item::Wanted(wanted)) {
            say!("the status page did not hear whether it is wanted");
        }
    }

    fn send(&self, item: Item) -> bool {
        (self.sender.as_ref()).is_none_or(|sender| sender.try_send(item).is_ok())
    }
}

/// A screen that the page is drawn on.
struct Screen {
    tty: File,
    /// Keeps the terminal there that messages go to.
    _messages: Option<File>,
    /// Whether the log went to it.
    moved_log: bool,
    /// What was drawn last, and when.
    drawn: Option<(Instant, String)>,
}

impl Screen {
    /// Takes the first virtual terminal, if there are any.
    fn open(root: &Path) -> Option<Self> {
        let consoles = Consoles::read(root);
        if !consoles.have_screen() {
            return None;
        }
        let moved_log = consoles.say_on_screen();
        let tty = log::open_terminal(&root.join(PAGE_TTY)).ok()?;
        let messages_path = root.join(MESSAGES_TTY);
        let messages = log::open_terminal(&messages_path).ok();
        if messages.is_some() {
            if let Err(error) = sys::kernel_messages_to(tty.as_fd(), MESSAGES_NUMBER) {
                say!("the kernel's messages stay on the page's terminal: {error}");
            }
            if moved_log {
                log::move_to(Some(messages_path));
            }
        }
        Some(Self {
            tty,
            moved_log: moved_log && messages.is_some(),
            _messages: messages,
            drawn: None,
        })
    }

    fn draw(&mut self, page: &Page, now: Instant) {
        let (columns, rows) = sys::window_size(self.tty.as_fd()).unwrap_or((80, 25));
        let frame = page.screen(usize::from(columns), usize::from(rows));
        let same =
            |(at, last): &(Instant, String)| *last == frame && now.duration_since(*at) < REDRAW;
        if self.drawn.as_ref().is_some_and(same) {
            return;
        }
        // What a terminal doesn't take now it gets with the next frame.
        drop(log::write_patiently(&mut self.tty, frame.as_bytes()));
        self.drawn = Some((now, frame));
    }

    /// Leaves an empty terminal to others.
    fn leave(mut self) {
        drop(log::write_patiently(
            &mut self.tty,
            b"\x18\x1b[H\x1b[J\x1b[?25h",
        ));
        // As it was: to the terminal that is shown.
        drop(sys::kernel_messages_to(self.tty.as_fd(), 0));
        if self.moved_log {
            log::move_to(None);
        }
    }
}

struct Drawer {
    root: PathBuf,
    began: Instant,
    wanted: Option<bool>,
    screen: Option<Screen>,
    looked_for_screen: bool,
    page: Page,
    troubled: Instant,
    /// When the log was told last, and what.
    logged: Option<(Instant, page::News)>,
    /// What is new since, and when it came up.
    fresh: Option<(Instant, page::News)>,
}

impl Drawer {
    fn new(root: PathBuf) -> Self {
        Self {
            root,
            began: Instant::now(),
            wanted: None,
            screen: None,
            looked_for_screen: false,
            page: Page::default(),
            troubled: Instant::now(),
            logged: None,
            fresh: None,
        }
    }

    fn run(mut self, receiver: &Receiver<Item>) {
        loop {
            // Changes shortly after each other are one; a frame each second is enough.
            match receiver.recv_timeout(Duration::from_secs(1)) {
                Ok(item) => self.take(item),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            while let Ok(item) = receiver.try_recv() {
                self.take(item);
            }
            self.show(Instant::now());
        }
    }

    fn take(&mut self, item: Item) {
        match item {
            Item::Boot(boot) => {
                if let Some(what) = trouble(&self.page.boot, &boot) {
                    self.troubled = Instant::now();
                    self.page.trouble = Some(Trouble {
                        what,
                        ago: Duration::ZERO,
                    });
                }
                self.page.boot = *boot;
            }
            Item::Wanted(wanted) => self.wanted = Some(wanted),
        }
    }

    /// Draws and logs what there is to show, if it is wanted; while nobody has said so, only
    /// after a time in which somebody should have.
    fn show(&mut self, now: Instant) {
        let undecided = now.duration_since(self.began) >= UNDECIDED;
        if !self.wanted.unwrap_or(undecided) {
            if let Some(screen) = self.screen.take() {
                screen.leave();
            }
            return;
        }
        self.refresh(now);
        if !self.looked_for_screen {
            self.looked_for_screen = true;
            self.screen = Screen::open(&self.root);
        }
        if let Some(screen) = &mut self.screen {
            screen.draw(&self.page, now);
        }
        if self.page.boot.booted && self.page.boot.ending.is_none() {
            self.log(now);
        }
    }

    /// Reads what others say: the image, the node API, the kernel.
    fn refresh(&mut self, now: Instant) {
        let page = &mut self.page;
        if page.image == Image::default() {
            page.image = image(&self.root);
        }
        page.name = nix::unistd::gethostname().map_or_else(
            |_| String::new(),
            |name| name.to_string_lossy().into_owned(),
        );
        page.api = std::fs::read(self.root.join(API_FILE))
            .ok()
            .and_then(|text| serde_json::from_slice(&text).ok());
        if let Some(trouble) = &mut page.trouble {
            trouble.ago = now.duration_since(self.troubled);
        }
    }

    /// Puts the page into the log, when something on it is news and has settled.
    fn log(&mut self, now: Instant) {
        let news = self.page.news();
        if self
            .logged
            .as_ref()
            .is_some_and(|(_, known)| *known == news)
        {
            self.fresh = None;
            return;
        }
        match &self.fresh {
            Some((since, known)) if *known == news => {
                let pause_over = (self.logged.as_ref())
                    .is_none_or(|(last, _)| now.duration_since(*last) >= PAUSE);
                if now.duration_since(*since) >= QUIET && pause_over {
                    log::console_only("status:");
                    for line in self.page.lines() {
                        log::console_only(&line);
                    }
                    self.logged = Some((now, news));
                    self.fresh = None;
                }
            }
            _ => self.fresh = Some((now, news)),
        }
    }
}

/// What is known of the image and its slot.
fn image(root: &Path) -> Image {
    let title = match ImageInfo::read(&root.join(IMAGE_INFO_PATH.trim_start_matches('/'))) {
        Ok(i) => format!("{} for {}, Kubernetes {}", i.version, i.board, i.kubernetes),
        Err(error) => error.to_string(),
    };
    Image {
        title,
        slot: slots::booted(root).map(|slot| slot.to_string()),
    }
}
