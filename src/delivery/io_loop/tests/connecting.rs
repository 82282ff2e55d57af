//! Names, addresses, and the connections to them.

use super::super::dialing::NEXT_ADDRESS_MS;
use super::*;

#[test]
fn a_name_that_hangs_is_a_failure_of_dns_and_delays_no_other() {
    let clock = Arc::new(ManualClock::new(0, 1));
    let (release, held) = bounded::<()>(0);
    let (begun, has_begun) = unbounded();
    let (_loops, script) = bed(LIMITS, Arc::clone(&clock) as _, move |name| {
        begun.send(name.to_owned()).unwrap();
        if name == "hangs.example" {
            let _ = held.recv();
        }
        Ok(vec![IpAddr::from([127, 0, 0, 1])])
    });
    let port = answering(listener()).port();
    script.give(1, "http://hangs.example/", 1_000);
    script.give(2, "http://Hangs.example/", 1_000);
    assert_eq!(has_begun.recv_timeout(DEADLINE).unwrap(), "hangs.example");
    script.give(3, &format!("http://fine.example:{port}/"), 1_000);
    assert_eq!(script.end(3), answered());
    clock.advance(Duration::from_millis(1_000));
    assert_eq!(script.end(1), failed(Failure::Dns));
    assert_eq!(script.end(2), failed(Failure::Dns));
    assert_eq!(has_begun.try_iter().collect::<Vec<_>>(), ["fine.example"]);
    drop(release);
}

#[test]
fn of_a_name_only_the_addresses_that_the_guard_admits_are_used() {
    let address = answering(listener());
    let (_loops, script) = bed(LIMITS, Arc::new(SystemClock::new()), move |name| {
        let mixed = vec![IpAddr::from([10, 0, 0, 1]), IpAddr::from([127, 0, 0, 1])];
        Ok(match name {
            "mixed.example" => mixed,
            "internal.example" => vec![IpAddr::from([10, 0, 0, 1])],
            _ => Vec::new(),
        })
    });
    let url = |name: &str| format!("http://{name}:{}/", address.port());
    script.give(1, &url("mixed.example"), 10_000);
    script.give(2, &url("internal.example"), 10_000);
    script.give(3, &url("unknown.example"), 10_000);
    assert_eq!(script.end(1), answered());
    assert_eq!(script.end(2), failed(Failure::Guard("private".to_owned())));
    assert_eq!(script.end(3), failed(Failure::Dns));
}

/// TLS refuses the name after the connection is made.
#[cfg(feature = "tls")]
#[test]
fn a_name_that_no_certificate_can_have_keeps_no_connection() {
    let (_loops, script) =
        bed(LIMITS, Arc::new(SystemClock::new()), |_| Ok(vec![IpAddr::from([127, 0, 0, 1])]));
    let receiver = listener();
    let port = receiver.local_addr().unwrap().port();
    script.give(1, &format!("https://a-.example:{port}/"), 10_000);
    assert_eq!(script.end(1), failed(Failure::Tls("name".to_owned())));
    let (mut stream, _) = receiver.accept().unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    assert_eq!(stream.read(&mut [0]).unwrap(), 0, "it is closed");
}

/// An address that swallows packets: its queue of connections is full. Holds what fills it.
#[cfg(target_os = "linux")]
fn swallowing(address: SocketAddr) -> (TcpListener, Vec<TcpStream>) {
    let listener = TcpListener::bind(address).unwrap();
    rustix::net::listen(&listener, 0).unwrap();
    let connect = || TcpStream::connect_timeout(&address, Duration::from_millis(100)).ok();
    let filling: Vec<_> = std::iter::from_fn(connect).take(100).collect();
    assert!(filling.len() < 100, "the queue has no end");
    (listener, filling)
}

#[cfg(target_os = "linux")]
#[test]
fn a_dead_first_address_costs_250_ms_once() {
    let good = answering(listener());
    let dead = SocketAddr::from(([127, 0, 0, 2], good.port()));
    let held = swallowing(dead);
    let limits = LoopLimits { idle_per_host_max: 0, ..LIMITS };
    let (_loops, script) =
        bed(limits, Arc::new(SystemClock::new()), move |_| Ok(vec![dead.ip(), good.ip()]));
    let url = format!("http://two.example:{}/", good.port());
    let took = |token| {
        let started = Instant::now();
        script.give(token, &url, 10_000);
        assert_eq!(script.end(token), answered());
        started.elapsed()
    };
    let delay = Duration::from_millis(NEXT_ADDRESS_MS);
    let first = took(1);
    assert!(first >= delay && first < Duration::from_secs(5), "{first:?}");
    // Each would take as long again if it began with the dead address.
    assert!((2..10).any(|token| took(token) < delay));
    drop(held);
}

#[cfg(target_os = "linux")]
#[test]
fn a_silent_address_times_out_and_is_interruptible() {
    let (silent, _held) = {
        let free = listener().local_addr().unwrap();
        (free, swallowing(free))
    };
    let clock = Arc::new(ManualClock::new(0, 1));
    let (loops, script) = bed(LIMITS, Arc::clone(&clock) as _, no_names);
    let url = format!("http://{silent}/");
    let other = format!("http://{}/", answering(listener()));
    script.give(1, &url, 60_000);
    script.give(2, &other, 60_000);
    assert_eq!(script.end(2), answered());
    clock.advance(Duration::from_millis(10_000));
    assert_eq!(script.end(1), failed(Failure::Timeout));
    script.give(3, &url, 60_000);
    script.give(4, &other, 60_000);
    assert_eq!(script.end(4), answered());
    loops.interrupt();
    assert_eq!(script.end(3), failed(Failure::Interrupted));
    script.give(5, &other, 60_000);
    assert_eq!(script.end(5), failed(Failure::Interrupted));
}

#[test]
fn connections_have_an_idle_limit_and_an_age_limit() {
    let clock = Arc::new(ManualClock::new(0, 1));
    let (_loops, script) = bed(LIMITS, Arc::clone(&clock) as _, no_names);
    let receiver = listener();
    let url = format!("http://{}/", receiver.local_addr().unwrap());
    let mut token = 0;
    let mut attempt = |stream: &mut TcpStream| {
        token += 1;
        script.give(token, &url, 60_000);
        assert!(stream.read(&mut [0; 4_096]).unwrap() > 0);
        stream.write_all(OK).unwrap();
        assert_eq!(script.end(token), answered());
    };
    // Begins the connection that is accepted here.
    script.give(1_000, &url, 60_000);
    let (mut stream, _) = receiver.accept().unwrap();
    assert!(stream.read(&mut [0; 4_096]).unwrap() > 0);
    stream.write_all(OK).unwrap();
    assert_eq!(script.end(1_000), answered());
    for _ in 0..20 {
        clock.advance(Duration::from_millis(15_000));
        if clock.monotonic_ms() < 300_000 {
            attempt(&mut stream);
        }
    }
    // Five minutes old: the next attempt has another connection.
    script.give(1_001, &url, 60_000);
    let (mut fresh, _) = receiver.accept().unwrap();
    assert_eq!(stream.read(&mut [0]).unwrap(), 0);
    assert!(fresh.read(&mut [0; 4_096]).unwrap() > 0);
    fresh.write_all(OK).unwrap();
    assert_eq!(script.end(1_001), answered());
    clock.advance(Duration::from_millis(30_000));
    assert_eq!(fresh.read(&mut [0]).unwrap(), 0);
}
