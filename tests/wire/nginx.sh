#!/usr/bin/env bash
# Prints where nginx is, and installs it first where it is missing and may be installed. Otherwise it
# says why not, and fails.
set -euo pipefail
PATH=$PATH:/usr/sbin:/usr/local/sbin

if ! command -v nginx; then
    if [[ $(id -u) != 0 ]] || ! command -v apt-get >/dev/null; then
        echo "nginx is missing, and only root can install it, with apt-get" >&2
        exit 1
    fi
    # The package would start a server of its own: nobody asked for that.
    export DEBIAN_FRONTEND=noninteractive RUNLEVEL=1
    install="apt-get install -y --no-install-recommends nginx-light"
    if ! { $install || { apt-get update -qq && $install; }; } >/dev/null 2>&1; then
        echo "nginx is missing, and apt-get could not install it" >&2
        exit 1
    fi
    command -v nginx
fi
