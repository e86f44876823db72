//! The thread against wpa_supplicant itself, with its driver for no radio at all.

use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use slipway_images::seed::Secret;
use slipway_images::seed::network::WifiSecurity;

use super::*;

struct Bench {
    dir: tempfile::TempDir,
    supplicant: Option<Child>,
    news: Arc<Mutex<Vec<News>>>,
    wifi: Wifi,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let news = Arc::<Mutex<Vec<News>>>::default();
        let to = Arc::clone(&news);
        let tell: Tell = Arc::new(Mutex::new(move |one| to.lock().unwrap().push(one)));
        let mut wifi = Wifi::new(dir.path().join("wifi"), tell);
        wifi.driver = "none";
        Self {
            dir,
            supplicant: None,
            news,
            wifi,
        }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    fn start(&mut self) {
        let log = fs::File::create(self.dir.path().join("log")).unwrap();
        let child = Command::new("wpa_supplicant")
            .arg("-dd")
            .arg("-g")
            .arg(self.dir.path().join("wifi/control"))
            .stdout(Stdio::from(log))
            .spawn();
        self.supplicant = Some(child.unwrap());
    }

    fn end(&mut self) {
        if let Some(mut child) = self.supplicant.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    fn until(&self, what: &str, mut done: impl FnMut() -> bool) {
        let end = Instant::now() + Duration::from_secs(30);
        while !done() {
            let news = self.news.lock().unwrap();
            assert!(Instant::now() < end, "{what}\n{news:?}\n{}", self.log());
            drop(news);
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn logs(&self, words: &str) {
        self.until(words, || self.log().contains(words));
    }

    fn tells(&self, news: &News) {
        self.until("news", || self.news.lock().unwrap().contains(news));
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.end();
    }
}

fn home() -> [AccessPoint; 1] {
    [AccessPoint {
        ssid: "home".into(),
        security: WifiSecurity::Wpa2(Secret::new("a secret of home")),
        hidden: false,
        bssid: None,
    }]
}

#[test]
fn interfaces_are_handed_over_taken_back_and_handed_over_again() {
    let mut bench = Bench::new();
    // Before the service runs, as it is in a boot.
    bench.wifi.join("wlan0", &home(), None).unwrap();
    bench.tells(&News::WifiWanted(true));
    let path = bench.dir.path().join("wifi");
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(
        (mode(&path), mode(&path.join("wlan0.conf"))),
        (0o700, 0o600)
    );

    bench.start();
    bench.logs("interface 'wlan0'");
    // The driver for no radio knows no interface of that name.
    let refused =
        "degraded: wlan0 can't be used: `slipway node logs wifi` has wpa_supplicant's reason";
    bench.tells(&News::WifiStatus(refused.into()));
    assert!(!bench.log().contains("a secret"), "{}", bench.log());

    bench.wifi.join("wlan1", &home(), Some("DE")).unwrap();
    bench.logs("interface 'wlan1'");

    // It ends and is started anew.
    bench.end();
    bench.start();
    bench.logs("interface 'wlan0'");
    bench.logs("interface 'wlan1'");

    bench.wifi.leave("wlan0");
    bench.wifi.leave("wlan1");
    bench.wifi.leave("eth0");
    bench.tells(&News::WifiWanted(false));
    bench.tells(&News::WifiStatus(String::new()));
    assert_eq!(
        files::sorted_files(&path, "conf"),
        [""; 0].map(PathBuf::from)
    );
}
