//! Models from HuggingFace's hub, or rather from a small server that answers as it does.
#![cfg(feature = "hub")]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};

use common::{printed, refused, tiny_bert};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// What goes wrong with the weights.
#[derive(Clone, Copy, PartialEq)]
enum Fault {
    None,
    /// The connection ends after so many bytes.
    Cut(usize),
    /// The server takes so many bytes for all there are.
    Short(usize),
    /// The server sends everything, whatever part it is asked for.
    Whole,
}

#[derive(Clone)]
struct Server {
    files: Arc<BTreeMap<String, Vec<u8>>>,
    fault: Arc<Mutex<Fault>>,
    /// Path and range of every request.
    log: Arc<Mutex<Vec<(String, String)>>>,
    address: String,
}

impl Server {
    fn start(files: BTreeMap<String, Vec<u8>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = Self {
            files: Arc::new(files),
            fault: Arc::new(Mutex::new(Fault::None)),
            log: Arc::default(),
            address: format!("http://{}", listener.local_addr().unwrap()),
        };
        let answering = server.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let server = answering.clone();
                std::thread::spawn(move || server.answer(stream));
            }
        });
        server
    }

    /// Serves the files of a folder.
    fn of_folder(folder: &Path) -> Self {
        let files = fs::read_dir(folder).unwrap().flatten().map(|entry| {
            let name = entry.file_name().into_string().unwrap();
            (name, fs::read(entry.path()).unwrap())
        });
        Self::start(files.collect())
    }

    fn set(&self, fault: Fault) {
        *self.fault.lock().unwrap() = fault;
    }

    /// The ranges in which a file's content was asked for.
    fn ranges(&self, file: &str) -> Vec<String> {
        let log = self.log.lock().unwrap();
        let of_file = log
            .iter()
            .filter(|(path, range)| *path == format!("/content/{file}") && range != "bytes=0-0");
        of_file.map(|(_, range)| range.clone()).collect()
    }

    fn answer(&self, mut stream: TcpStream) {
        let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
        let first = lines.next().unwrap().unwrap();
        let path = first.split(' ').nth(1).unwrap().to_owned();
        let headers: Vec<String> = lines
            .map_while(Result::ok)
            .take_while(|line| !line.is_empty())
            .collect();
        let range = headers.iter().find_map(|line| {
            let (name, value) = line.split_once(": ")?;
            name.eq_ignore_ascii_case("range").then(|| value.to_owned())
        });
        let range = range.unwrap_or_default();
        self.log.lock().unwrap().push((path.clone(), range.clone()));
        let mut send = |head: String, body: &[u8]| {
            let _ = write!(stream, "HTTP/1.1 {head}\r\nConnection: close\r\n\r\n");
            let _ = stream.write_all(body);
        };
        if path == "/api/models/owner/tiny/revision/main" {
            let names = self
                .files
                .keys()
                .map(|name| format!("{{\"rfilename\":\"{name}\"}}"));
            let names = names.collect::<Vec<_>>().join(",");
            let text = format!("{{\"sha\":\"{COMMIT}\",\"siblings\":[{names}]}}");
            let head = format!("200 OK\r\nContent-Length: {}", text.len());
            return send(head, text.as_bytes());
        }
        let resolve = format!("/owner/tiny/resolve/{COMMIT}/");
        if let Some(name) = path.strip_prefix(&resolve) {
            // Large files are redirected to another host, small ones on the same.
            let (status, host) = match name.ends_with(".safetensors") {
                true => ("302 Found", self.address.as_str()),
                false => ("307 Temporary Redirect", ""),
            };
            return send(
                format!(
                    "{status}\r\nLocation: {host}/content/{name}\r\nX-Repo-Commit: {COMMIT}\r\n\
                     X-Linked-Etag: \"tag-{name}\"\r\nContent-Length: 0",
                ),
                b"",
            );
        }
        let name = path.strip_prefix("/content/").unwrap_or_default();
        let Some(all) = self.files.get(name) else {
            return send("404 Not Found\r\nContent-Length: 0".into(), b"");
        };
        let (start, end) = range["bytes=".len()..].split_once('-').unwrap();
        let mut start: usize = start.parse().unwrap();
        let probe = end == "0";
        let fault = match name {
            "model.safetensors" if !probe => *self.fault.lock().unwrap(),
            _ => Fault::None,
        };
        if start >= all.len() {
            return send("416 Range Not Satisfiable\r\nContent-Length: 0".into(), b"");
        }
        if fault == Fault::Whole {
            start = 0;
        }
        let body = &all[start..if probe { 1 } else { all.len() }];
        let body = match fault {
            Fault::Cut(count) | Fault::Short(count) => &body[..count.min(body.len())],
            _ => body,
        };
        let told = match fault {
            Fault::Cut(_) => all.len() - start,
            _ => body.len(),
        };
        send(
            format!(
                "206 Partial Content\r\nContent-Length: {told}\r\nContent-Range: bytes {start}-{}/{}\
                 \r\nEtag: \"tag-{name}\"\r\nX-Repo-Commit: {COMMIT}",
                start + told - 1,
                all.len()
            ),
            body,
        );
    }
}

/// A folder with a home for HuggingFace's cache.
struct Home(tempfile::TempDir);

impl Home {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn fornax(&self, endpoint: &str, args: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_fornax"))
            .args(args)
            .current_dir(self.0.path())
            .env("HF_HOME", self.0.path().join("hf"))
            .env("HF_ENDPOINT", endpoint)
            .env_remove("HF_HUB_CACHE")
            .env_remove("HF_TOKEN")
            .env_remove("FORNAX_DATA")
            .env("NO_PROXY", "127.0.0.1")
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    fn embed(&self, server: &Server) -> Output {
        let args = [
            "embed",
            "owner/tiny",
            "a cat sleeps",
            "a cat naps",
            "stocks fell",
        ];
        self.fornax(&server.address, &args)
    }

    fn cache(&self) -> PathBuf {
        self.0.path().join("hf/hub/models--owner--tiny")
    }

    fn snapshot(&self) -> PathBuf {
        self.cache().join("snapshots").join(COMMIT)
    }

    fn part(&self) -> PathBuf {
        // The tag of a real blob has no dot.
        self.cache().join("blobs/tag-model.part")
    }

    /// Neither the weights nor what leads to them have their good names.
    #[track_caller]
    fn has_no_weights(&self) {
        assert!(!self.snapshot().join("model.safetensors").exists());
        assert!(!self.cache().join("blobs/tag-model.safetensors").exists());
        assert!(!self.cache().join("refs/main").exists());
    }

    #[track_caller]
    fn has_weights(&self, server: &Server) {
        let bytes = fs::read(self.snapshot().join("model.safetensors")).unwrap();
        assert!(bytes == server.files["model.safetensors"]);
        assert!(self.cache().join("refs/main").exists());
    }
}

/// A tiny model and files that nobody needs.
fn tiny() -> (tempfile::TempDir, Server) {
    let folder = tempfile::tempdir().unwrap();
    tiny_bert(folder.path());
    fs::write(folder.path().join("pytorch_model.bin"), "old").unwrap();
    fs::write(folder.path().join("README.md"), "words").unwrap();
    let server = Server::of_folder(folder.path());
    (folder, server)
}

#[test]
fn fetched_once_and_used_from_then_on() {
    let (folder, server) = tiny();
    let home = Home::new();
    let fetched = printed(home.embed(&server));
    home.has_weights(&server);
    let mut names: Vec<_> = fs::read_dir(home.snapshot())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["config.json", "model.safetensors", "vocab.txt"]);

    // As a folder of its own, and without any hub.
    let path = folder.path().display().to_string();
    let args = ["embed", &path, "a cat sleeps", "a cat naps", "stocks fell"];
    assert_eq!(printed(home.fornax("", &args)), fetched);
    let asked = server.log.lock().unwrap().len();
    assert_eq!(printed(home.embed(&server)), fetched);
    assert_eq!(server.log.lock().unwrap().len(), asked);

    let one = ["inspect", "owner/tiny/model.safetensors"];
    let text = printed(home.fornax(&server.address, &one));
    assert!(text.contains("embeddings.word_embeddings.weight"));
    let one = ["generate", "owner/tiny/other.gguf"];
    refused(
        home.fornax(&server.address, &one),
        &["owner/tiny", "has no other.gguf"],
    );
    refused(
        home.fornax(&server.address, &["generate", "owner/tiny"]),
        &["\"bert\"", "gpt2 and llama"],
    );
}

#[test]
fn an_interrupted_download_goes_on_where_it_stood() {
    let (_folder, server) = tiny();
    let home = Home::new();
    server.set(Fault::Cut(1000));
    refused(
        home.embed(&server),
        &["cannot fetch model.safetensors", "goes on where it stood"],
    );
    home.has_no_weights();
    assert_eq!(fs::metadata(home.part()).unwrap().len(), 1000);
    server.set(Fault::None);
    printed(home.embed(&server));
    home.has_weights(&server);
    let ranges = server.ranges("model.safetensors");
    assert_eq!(ranges, ["bytes=0-", "bytes=1000-"]);
}

#[test]
fn a_file_of_a_wrong_length_does_not_get_its_name() {
    let (_folder, server) = tiny();
    let home = Home::new();
    server.set(Fault::Short(1000));
    let size = server.files["model.safetensors"].len();
    refused(
        home.embed(&server),
        &[&format!(
            "model.safetensors came with 1000 bytes instead of {size}"
        )],
    );
    home.has_no_weights();
    assert!(!home.part().exists());
    server.set(Fault::None);
    printed(home.embed(&server));
    home.has_weights(&server);
}

#[test]
fn parts_that_cannot_be_gone_on_with_are_begun_anew() {
    let (_folder, server) = tiny();
    let all = &server.files["model.safetensors"];
    // A server that does not know ranges; a whole part whose name was not changed any more; one
    // that is too long.
    let long = [&all[..], b"more"].concat();
    for (fault, part) in [
        (Fault::Whole, &all[..1000]),
        (Fault::None, &all[..]),
        (Fault::None, &long[..]),
    ] {
        let home = Home::new();
        server.set(fault);
        fs::create_dir_all(home.part().parent().unwrap()).unwrap();
        fs::write(home.part(), part).unwrap();
        printed(home.embed(&server));
        home.has_weights(&server);
    }
}

#[test]
fn what_is_not_there() {
    let (_folder, server) = tiny();
    let home = Home::new();
    refused(
        home.fornax(&server.address, &["inspect", "owner/other"]),
        &["owner/other is no such file or folder", &server.address],
    );
    // Nobody listens at a port that was just given back.
    let gone = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    refused(
        home.fornax(&format!("http://{gone}"), &["inspect", "owner/tiny"]),
        &[
            "owner/tiny is no such file or folder",
            "cannot be asked",
            "by hand",
        ],
    );
}

#[test]
fn shards_by_their_index_and_only_where_they_belong() {
    let (folder, _) = tiny();
    let path = |name: &str| folder.path().join(name);
    fs::rename(path("model.safetensors"), path("part-1.safetensors")).unwrap();
    let index = |shard: &str| {
        let mut bytes = Vec::new();
        let mut file = fs::File::open(path("part-1.safetensors")).unwrap();
        file.read_to_end(&mut bytes).unwrap();
        let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let header: serde_json::Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
        let names = header.as_object().unwrap().keys();
        let names = names.filter(|name| *name != "__metadata__");
        let map: BTreeMap<&str, &str> = names.map(|name| (name.as_str(), shard)).collect();
        let text = serde_json::json!({"weight_map": map}).to_string();
        fs::write(path("model.safetensors.index.json"), text).unwrap();
        Server::of_folder(folder.path())
    };
    let home = Home::new();
    printed(home.embed(&index("part-1.safetensors")));
    assert!(home.snapshot().join("part-1.safetensors").exists());

    let home = Home::new();
    refused(home.embed(&index("../../../evil.safetensors")), &["evil"]);
    assert!(!home.cache().join("refs/main").exists());
}
