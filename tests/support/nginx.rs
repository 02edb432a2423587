//! A real nginx in one process, with a configuration given by the test.

use std::{
    fs,
    net::{SocketAddr, TcpListener, TcpStream},
    process::Command,
};

use super::{LIMIT, Scratch, poll, program::Program};

/// An nginx that listens. It ends with the test.
pub struct Nginx {
    _program: Program,
    pub address: SocketAddr,
}

impl Nginx {
    /// Starts it on a free port of 127.12.9.9, with these lines in its `http` block, and those in its only `server`
    /// block.
    pub fn start(scratch: &Scratch, http: &str, server: &str) -> Self {
        Self::listening(scratch, "", http, server)
    }

    /// Starts it in the same way, with this parameter of `listen`: `ssl`.
    pub fn listening(scratch: &Scratch, parameter: &str, http: &str, server: &str) -> Self {
        let free = TcpListener::bind("127.12.9.9:0").expect("a free port");
        let address = free.local_addr().expect("it has an address");
        drop(free);
        let folders = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
        let folders = folders.map(|name| {
            fs::create_dir_all(scratch.path(name)).expect("a folder can be made");
            format!("{name}_temp_path {name};")
        });
        let file = scratch.write(
            "nginx.conf",
            &format!(
                "user root; daemon off; master_process off; pid nginx.pid; error_log stderr;\n\
                 events {{}}\n\
                 http {{ access_log off; {}\n{http}\nserver {{ listen {address} {parameter};\n{server}\n}} }}\n",
                folders.join(" ")
            ),
        );
        let mut command = Command::new("nginx");
        command.arg("-c").arg(&file).arg("-p").arg(scratch.path("")).args(["-e", "stderr"]);
        let program = Program::start(&mut command);
        poll("nginx, listening", || TcpStream::connect_timeout(&address, LIMIT).is_ok(), |listens| *listens);
        Self { _program: program, address }
    }
}
