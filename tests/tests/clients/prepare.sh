# Makes what clients fetch, in $FILES, and what they need to fetch it, in $TOOLS.
set -euo pipefail
mkdir -p "$FILES/simple/hello" "$FILES/deb"
echo 'hello from the files' > "$FILES/get"
echo '<!doctype html><title>page</title><p>hello from the page' > "$FILES/page.html"

# git, by its "dumb" protocol.
git init -q --bare "$FILES/repo.git"
git init -q "$TOOLS/work"
echo hello > "$TOOLS/work/file"
git -C "$TOOLS/work" add file
git -C "$TOOLS/work" -c user.name=a -c user.email=a@example commit -qm first
git -C "$TOOLS/work" push -q "$FILES/repo.git" HEAD:master
git -C "$FILES/repo.git" symbolic-ref HEAD refs/heads/master
git -C "$FILES/repo.git" update-server-info

# A wheel, and an index with it.
python3 - "$FILES/simple/hello" <<'PYTHON'
import sys, zipfile
with zipfile.ZipFile(sys.argv[1] + "/hello-1.0-py3-none-any.whl", "w") as wheel:
    wheel.writestr("hello.py", "")
    wheel.writestr("hello-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: hello\nVersion: 1.0\n")
    wheel.writestr("hello-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nGenerator: a\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
    wheel.writestr("hello-1.0.dist-info/RECORD", "")
PYTHON
echo '<a href="hello-1.0-py3-none-any.whl">hello</a>' > "$FILES/simple/hello/index.html"

# A package of npm, and one of Debian.
echo '{"name": "hello", "dist-tags": {"latest": "1.0.0"}, "versions": {"1.0.0": {"name": "hello", "version": "1.0.0", "dist": {"tarball": "https://files.example/none"}}}}' > "$FILES/hello"
printf 'Package: hello\nVersion: 1.0\nArchitecture: all\nMaintainer: a <a@example>\nFilename: ./hello.deb\nSize: 1\nDescription: a\n' > "$FILES/deb/Packages"

# Java: the clients, and whom they trust.
javac -cp "$JARS" -d "$TOOLS/classes" "$JAVA"
keytool -importcert -noprompt -alias test -file "$CA" -keystore "$TOOLS/trust.p12" -storetype PKCS12 -storepass changeit 2> /dev/null

# A PostgreSQL cluster, of the user that runs it.
POSTGRES=$(find /usr/lib/postgresql -maxdepth 2 -name bin | sort -V | tail -n 1)
ln -s "$POSTGRES" "$TOOLS/postgres-bin"
chmod 755 "$(dirname "$TOOLS")"
install -d -o postgres -g postgres "$TOOLS/postgres"
setpriv --reuid postgres --regid postgres --clear-groups "$POSTGRES/initdb" -D "$TOOLS/postgres" -U a -A trust --no-sync > /dev/null
echo 'host all all all trust' >> "$TOOLS/postgres/pg_hba.conf"

# An SSH server, on a port of its own.
ssh-keygen -q -t ed25519 -N '' -f "$TOOLS/host"
ssh-keygen -q -t ed25519 -N '' -f "$TOOLS/user"
cat > "$TOOLS/sshd.conf" <<CONF
Port 2222
HostKey $TOOLS/host
AuthorizedKeysFile $TOOLS/user.pub
StrictModes no
UsePAM no
PidFile none
PermitRootLogin yes
CONF
mkdir -p /run/sshd
