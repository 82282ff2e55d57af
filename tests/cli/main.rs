//! The command line as its users meet it: the real program against a real host.
