//! Tests against the real iperf3, on loopback.

use super::*;
use std::net::TcpListener;

const HERE: Spawn<'static> = &|mut command| command.spawn();

fn plan(host: &str, direction: Direction, streams: u8) -> IperfPlan {
    let server = TcpListener::bind((host, 0)).unwrap().local_addr().unwrap();
    let second = Duration::from_secs(1);
    let interval = Duration::from_millis(100);
    IperfPlan { server, direction, streams, duration: second, omit: Duration::ZERO, interval }
}

fn check(result: &IperfResult) {
    assert!(result.goodput_mbit > 10.0, "{result:?}");
    assert!((8..=12).contains(&result.intervals_mbit.len()), "{result:?}");
    let mean = result.intervals_mbit.iter().sum::<f64>() / result.intervals_mbit.len() as f64;
    assert!((0.5..2.0).contains(&(mean / result.goodput_mbit)), "{result:?}");
    assert!(!result.sender_cc.is_empty() && !result.receiver_cc.is_empty());
}

#[test]
fn both_directions_and_families_are_measured() {
    check(&measure(&plan("127.0.0.1", Direction::Up, 1), HERE, HERE).unwrap());
    check(&measure(&plan("::1", Direction::Down, 2), HERE, HERE).unwrap());
}

#[test]
fn omitted_seconds_do_not_count() {
    let plan = IperfPlan { omit: Duration::from_secs(1), ..plan("127.0.0.1", Direction::Up, 2) };
    check(&measure(&plan, HERE, HERE).unwrap());
}

#[test]
fn one_test_follows_another_on_the_same_port() {
    let plan = plan("127.0.0.1", Direction::Down, 1);
    for _ in 0..2 {
        check(&measure(&plan, HERE, HERE).unwrap());
    }
}

#[test]
fn a_missing_server_is_refused() {
    let plan = plan("127.0.0.1", Direction::Up, 1);
    let mut client = start(client_command(&plan), HERE).unwrap();
    let error = client.report(SERVER_WAIT).unwrap_err();
    assert!(matches!(error, IperfError::Refused), "{error}");
}

#[test]
fn a_taken_port_is_an_error_of_the_server() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let plan =
        IperfPlan { server: taken.local_addr().unwrap(), ..plan("127.0.0.1", Direction::Up, 1) };
    let mut server = start(server_command(&plan), HERE).unwrap();
    let error = server.report(SERVER_WAIT).unwrap_err();
    assert!(error.to_string().contains("in use"), "{error}");
}

#[test]
fn a_silent_server_is_a_timeout_and_the_client_is_gone() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let plan =
        IperfPlan { server: silent.local_addr().unwrap(), ..plan("127.0.0.1", Direction::Up, 1) };
    let mut client = start(client_command(&plan), HERE).unwrap();
    let error = client.report(Duration::from_millis(300)).unwrap_err();
    assert!(matches!(error, IperfError::TimedOut), "{error}");
    let process = format!("/proc/{}", client.process.id());
    drop(client);
    assert!(!std::fs::exists(process).unwrap());
}

#[test]
fn a_second_client_finds_the_server_busy() {
    let plan =
        IperfPlan { duration: Duration::from_secs(20), ..plan("127.0.0.1", Direction::Up, 1) };
    let mut server = start(server_command(&plan), HERE).unwrap();
    await_listening(&mut server, plan.server).unwrap();
    // As far as a client goes before its streams: from there the server looks at others too.
    let mut holder = std::net::TcpStream::connect(plan.server).unwrap();
    let mut answer = [0];
    io::Write::write_all(&mut holder, &[b'a'; 37]).unwrap();
    holder.read_exact(&mut answer).unwrap();
    let params = br#"{"tcp":true,"omit":0,"time":20,"parallel":1,"len":131072}"#;
    let wire = [&(params.len() as u32).to_be_bytes(), params.as_slice()].concat();
    io::Write::write_all(&mut holder, &wire).unwrap();
    holder.read_exact(&mut answer).unwrap();
    let mut client = start(client_command(&plan), HERE).unwrap();
    let error = client.report(SERVER_WAIT).unwrap_err();
    assert!(matches!(error, IperfError::Busy), "{error}");
}

#[test]
fn a_program_that_cannot_be_started_is_an_error() {
    let none: Spawn<'_> = &|_| Err(io::ErrorKind::NotFound.into());
    let error = measure(&plan("127.0.0.1", Direction::Up, 1), none, HERE).unwrap_err();
    assert!(matches!(error, IperfError::Io(_)), "{error}");
}

#[test]
fn an_incomplete_report_names_what_it_lacks() {
    let error = read(&Value::Null, &Value::Null, SERVER_WAIT).unwrap_err();
    assert!(error.to_string().contains("end/sum_received"), "{error}");
}

#[test]
fn only_listeners_on_the_port_are_listeners() {
    let table = "  sl  local_address rem_address   st\n\
                 0: 0100007F:1451 00000000:0000 0A 0\n\
                 1: 0100007F:1452 0100007F:1453 01 0\n";
    assert!(listens(table, 0x1451));
    assert!(!listens(table, 0x1452) && !listens(table, 0x1453) && !listens("", 1));
}
