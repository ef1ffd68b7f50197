//! A headless Chromium, driven by the DevTools protocol over pipes: no port, no WebSocket, no network.
//! <https://chromedevtools.github.io/devtools-protocol/>

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// Starting a browser is slow on a busy machine.
const TIMEOUT: Duration = Duration::from_secs(90);

const NAMES: [&str; 4] = [
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
];

/// `CTSEG_TEST_CHROMIUM`, or the first of the usual names in `PATH`; `None` if not installed.
pub fn chromium() -> Option<PathBuf> {
    if let Some(named) = std::env::var_os("CTSEG_TEST_CHROMIUM").filter(|path| !path.is_empty()) {
        return Some(named.into());
    }
    let path = std::env::var_os("PATH")?;
    let folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    let files = NAMES
        .iter()
        .flat_map(|name| folders.iter().map(move |folder| folder.join(name)));
    files.into_iter().find(|file| file.is_file())
}

/// A page in its own browser process.
pub struct Page {
    browser: Child,
    to: Option<ChildStdin>,
    from: Receiver<Value>,
    session: String,
    last_id: u64,
    events: VecDeque<Value>,
    _profile: tempfile::TempDir,
}

impl Page {
    /// Starts the browser with an empty page of `width` CSS pixels.
    pub fn open(chromium: &Path, width: u32) -> Self {
        let profile = tempfile::tempdir().unwrap();
        // Chromium reads commands from descriptor 3 and writes to 4, each message terminated by a zero byte.
        let mut browser = Command::new("sh")
            .arg("-c")
            .arg("exec \"$0\" \"$@\" 3<&0 4>&1 </dev/null >/dev/null")
            .arg(chromium)
            .args([
                "--headless=new",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-quic",
                "--disable-dev-shm-usage",
                "--no-first-run",
                "--disable-background-networking",
                "--disable-component-update",
                "--disable-sync",
                "--remote-debugging-pipe",
            ])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .arg("about:blank")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut output = BufReader::new(browser.stdout.take().unwrap());
        let (send, from) = channel();
        std::thread::spawn(move || {
            let mut message = Vec::new();
            while output.read_until(0, &mut message).is_ok_and(|n| n > 0) {
                message.pop();
                let parsed = serde_json::from_slice(&message);
                if parsed.is_ok_and(|value: Value| send.send(value).is_err()) {
                    return;
                }
                message.clear();
            }
        });
        let mut page = Self {
            to: browser.stdin.take(),
            browser,
            from,
            session: String::new(),
            last_id: 0,
            events: VecDeque::new(),
            _profile: profile,
        };
        let target = page.call("Target.createTarget", json!({"url": "about:blank"}));
        let target = json!({"targetId": target["targetId"], "flatten": true});
        let attached = page.call("Target.attachToTarget", target);
        page.session = attached["sessionId"].as_str().unwrap().to_owned();
        for domain in ["Page", "Runtime", "Log", "Network"] {
            page.call(&format!("{domain}.enable"), json!({}));
        }
        page.resize(width);
        page
    }

    /// Sends a command and waits for its result.
    pub fn call(&mut self, method: &str, parameters: Value) -> Value {
        self.last_id += 1;
        let id = self.last_id;
        let mut message = json!({"id": id, "method": method, "params": parameters});
        if !self.session.is_empty() {
            message["sessionId"] = json!(self.session);
        }
        let to = self.to.as_mut().unwrap();
        to.write_all(format!("{message}\0").as_bytes()).unwrap();
        to.flush().unwrap();
        let until = Instant::now() + TIMEOUT;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let answer = self
                .from
                .recv_timeout(left)
                .unwrap_or_else(|error| panic!("no answer to {method}: {error}"));
            if answer["id"] == id {
                assert!(answer["error"].is_null(), "{method}: {answer}");
                return answer["result"].clone();
            }
            self.events.push_back(answer);
        }
    }

    pub fn resize(&mut self, width: u32) {
        let size =
            json!({"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600});
        self.call("Emulation.setDeviceMetricsOverride", size);
    }

    /// Loads a file and waits until its scripts have run.
    pub fn load(&mut self, file: &Path) {
        let url = format!("file://{}", file.display());
        self.call("Page.navigate", json!({"url": url}));
        self.wait_until("document.readyState === 'complete' && location.protocol === 'file:'");
    }

    /// The value of an expression; promises are awaited.
    pub fn evaluate(&mut self, expression: &str) -> Value {
        let question =
            json!({"expression": expression, "awaitPromise": true, "returnByValue": true});
        let answer = self.call("Runtime.evaluate", question);
        assert!(
            answer["exceptionDetails"].is_null(),
            "{expression}: {answer}"
        );
        answer["result"]["value"].clone()
    }

    /// Waits until an expression is true.
    pub fn wait_until(&mut self, expression: &str) {
        let until = Instant::now() + TIMEOUT;
        while self.evaluate(expression) != true {
            assert!(Instant::now() < until, "timed out: {expression}");
            std::thread::sleep(Duration::from_millis(30));
        }
    }

    /// Presses and releases a key, such as `ArrowUp` or `w`.
    pub fn press(&mut self, key: &str) {
        let mut event = json!({"type": "keyDown", "key": key});
        if key.len() == 1 {
            event["text"] = json!(key);
        }
        self.call("Input.dispatchKeyEvent", event);
        let released = json!({"type": "keyUp", "key": key});
        self.call("Input.dispatchKeyEvent", released);
    }

    /// Turns the wheel over the middle of an element; positive values scroll down.
    pub fn wheel(&mut self, selector: &str, down: i32) {
        let [x, y] = self.middle(selector);
        let event = json!({"type": "mouseWheel", "x": x, "y": y, "deltaX": 0, "deltaY": down});
        self.call("Input.dispatchMouseEvent", event);
    }

    /// Clicks the middle of an element, with a mouse.
    pub fn click(&mut self, selector: &str) {
        let [x, y] = self.middle(selector);
        for kind in ["mousePressed", "mouseReleased"] {
            let event = json!({"type": kind, "x": x, "y": y, "button": "left", "clickCount": 1});
            self.call("Input.dispatchMouseEvent", event);
        }
    }

    fn middle(&mut self, selector: &str) -> [f64; 2] {
        let place = self.evaluate(&format!(
            "(() => {{ const e = document.querySelector({}); \
             e.scrollIntoView({{block: 'center', behavior: 'instant'}}); \
             const b = e.getBoundingClientRect(); return [b.x + b.width / 2, b.y + b.height / 2]; }})()",
            json!(selector)
        ));
        [0, 1].map(|axis| place[axis].as_f64().unwrap())
    }

    /// The whole page as a picture.
    pub fn screenshot(&mut self, file: &Path) {
        use base64::Engine;
        let wanted = json!({"captureBeyondViewport": true, "format": "png"});
        let picture = self.call("Page.captureScreenshot", wanted);
        let text = picture["data"].as_str().unwrap();
        let engine = base64::engine::general_purpose::STANDARD;
        std::fs::write(file, engine.decode(text).unwrap()).unwrap();
    }

    /// Exceptions, errors and warnings so far.
    pub fn problems(&mut self) -> Vec<String> {
        self.evaluate("1"); // earlier events have arrived after this call
        let is_bad = |event: &&Value| match event["method"].as_str() {
            Some("Runtime.exceptionThrown") => true,
            Some("Runtime.consoleAPICalled") => {
                ["error", "warning", "assert"].contains(&event["params"]["type"].as_str().unwrap())
            }
            Some("Log.entryAdded") => event["params"]["entry"]["level"] != "info",
            _ => false,
        };
        let bad = self.events.iter().filter(is_bad);
        bad.map(Value::to_string).collect()
    }

    /// The addresses of all requests of the page.
    pub fn requests(&mut self) -> Vec<String> {
        self.evaluate("1");
        let asked = self.events.iter().filter(|event| {
            let method = event["method"].as_str().unwrap_or_default();
            method == "Network.requestWillBeSent" || method == "Network.webSocketCreated"
        });
        asked
            .map(|event| {
                let url = &event["params"]["request"]["url"];
                url.as_str().unwrap_or("a web socket").to_owned()
            })
            .collect()
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        // Closing the pipe ends the browser and all its processes.
        drop(self.to.take());
        let until = Instant::now() + Duration::from_secs(10);
        while Instant::now() < until {
            if self.browser.try_wait().is_ok_and(|status| status.is_some()) {
                return;
            }
            std::thread::sleep(Duration::from_millis(30));
        }
        let _ = self.browser.kill();
        let _ = self.browser.wait();
    }
}
