# Root filesystems of Debian packages, for scripts that say `. debian.sh`: bundles/make and tests/vm/make.
#
# Packages are downloaded with what they depend on and unpacked, not installed: no maintainer script runs, and the machine's
# own packages stay as they are. Needs only what every Debian has: apt, dpkg-deb, tar; and no privilege.
#
# Who uses this sets `build`, a directory, and has `say` and `fail`. Downloaded packages are kept in $build/debs.

debs=$build/debs

# One at a time works in $build, until it ends.
lock_the_build() {
    mkdir -p "$debs"
    exec 9>"$build/.lock"
    flock 9
}

# Where the search for dependencies stops: what serves maintainer scripts, an init system, or people at a terminal.
unneeded='adduser debconf dpkg init-system-helpers install-info iproute2 lsb-base mailcap perl readline-common'

# Packages and all that they depend on; of alternatives, and of a virtual package's providers, the first.
closure() {
    apt-cache depends --recurse --important "$@" | awk -v roots="$*" -v unneeded="$unneeded" '
        function need(name) { needs[package] = needs[package] " " name }
        BEGIN { split(unneeded, words); for (n in words) stop[words[n]] }
        /^[^ ]/ { package = $1; chosen = virtual = 0; next }
        /Depends: / {
            virtual = !chosen && $2 ~ /^</
            if (!chosen && !virtual) need($2)
            chosen = substr($0, 2, 1) == "|"    # Those that follow are alternatives to this one.
            next
        }
        virtual { need($1); virtual = 0 }
        END {
            last = split(roots, todo)
            for (next_one = 1; next_one <= last; next_one++) {
                if ((name = todo[next_one]) in seen || name in stop) continue
                seen[name]
                print name
                count = split(needs[name], words)
                for (n = 1; n <= count; n++) todo[++last] = words[n]
            }
        }'
}

# Downloads packages that are not here yet, and prints the names of all files.
fetch() {
    apt-get -q download --print-uris "$@" >"$build/uris" 2>"$build/apt.err" || unfetched "$*"
    files=$(awk '{ print $2 }' "$build/uris")
    missing=
    for file in $files; do
        [ -e "$debs/$file" ] || missing="$missing ${file%%_*}"
    done
    if [ -n "$missing" ]; then
        (cd "$debs" && apt-get -q -o APT::Sandbox::User="$(id -un)" download $missing) >"$build/apt.out" 2>"$build/apt.err" ||
            unfetched "$missing"
    fi
    echo "$files"
}

unfetched() {
    fail "cannot download $1: $(tail -n 1 "$build/apt.err")
  hint: apt-get update, as root, renews the lists of packages"
}

# An empty Debian: merged /usr, mount points, the few files of /etc that a C library wants.
empty_root() {
    mkdir -p "$1/usr/bin" "$1/usr/sbin" "$1/usr/lib" "$1/usr/lib64"
    for link in bin sbin lib lib64; do ln -s "usr/$link" "$1/$link"; done
    for dir in dev etc home proc root run sys tmp var/lib var/log var/tmp; do mkdir -p "$1/$dir"; done
    chmod 1777 "$1/tmp" "$1/var/tmp"
    chmod 0700 "$1/root"
    ln -s ../run "$1/var/run"
    cat >"$1/etc/passwd" <<-'END'
	root:x:0:0:root:/root:/bin/sh
	www-data:x:33:33:www-data:/var/www:/usr/sbin/nologin
	redis:x:101:101:redis:/var/lib/redis:/usr/sbin/nologin
	nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin
	END
    cat >"$1/etc/group" <<-'END'
	root:x:0:
	tty:x:5:
	www-data:x:33:
	redis:x:101:
	nogroup:x:65534:
	END
    echo 'hosts: files dns' >"$1/etc/nsswitch.conf"
    echo '127.0.0.1 localhost' >"$1/etc/hosts"
    : >"$1/etc/hostname"
    : >"$1/etc/resolv.conf"
}

# What only people read, and what only an init system does; each a directory that `unpack` leaves out.
unread='usr/share/doc usr/share/man usr/share/info usr/share/locale usr/share/lintian'
unwanted="$unread lib/systemd usr/lib/systemd"

# Unpacks packages and their closure.
unpack() {
    root=$1
    shift
    packages=$(closure "$@")
    files=$(fetch $packages)
    excludes=
    for dir in $unwanted; do excludes="$excludes --exclude=./$dir"; done
    for file in $files; do
        dpkg-deb --fsys-tarfile "$debs/$file" | tar -x --keep-directory-symlink --no-same-owner -C "$root" $excludes
    done
}

# A machine without package lists gets them, if we may.
have_lists() {
    [ -n "$(apt-cache madison busybox-static 2>/dev/null)" ] && return
    [ "$(id -u)" = 0 ] || fail 'this machine has no package lists
  hint: run apt-get update as root'
    say 'fetching package lists (apt-get update)'
    apt-get -q update >/dev/null || fail 'apt-get update failed'
}

