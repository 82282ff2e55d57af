//! Promises of 360dialog's API.
