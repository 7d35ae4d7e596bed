"""Secrets are in no output, no log line, no error and no list of processes, whatever fails."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import run_main
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from deadlines import DEADLINE_S, wait_until

SECRET = "hunter2"
"""A part of every secret here."""
CLOSED = "127.0.0.1:1"
SECURED = {
    "security.protocol": "SASL_PLAINTEXT",
    "sasl.mechanism": "PLAIN",
    "sasl.username": "alice",
    "sasl.password": f"{SECRET}-password",
}
S3 = {"access_key_id": "AKIA", "secret_access_key": f"{SECRET}-key", "endpoint": "http://" + CLOSED}
SET = {
    "MIRRORLOG_BOOTSTRAP_SERVERS": CLOSED,
    "MIRRORLOG_KAFKA": json.dumps(SECURED),
    "MIRRORLOG_NODE_HTTP_TOKEN": f"{SECRET}-node",
    "MIRRORLOG_METRICS_TOKEN": f"{SECRET}-metrics",
    "MIRRORLOG_ARCHIVE": "s3://bucket/archive",
    "MIRRORLOG_ARCHIVE_S3": json.dumps(S3),
    "MIRRORLOG_PATIENCE_S": "1",
}
# What is run | a variable that is set in addition. {secret} is a secret, {folder} that of FILES.
RUNS = """
config show
config check
status
doctor
node
archive verify --to s3://bucket/archive
status | MIRRORLOG_KAFKA={{"sasl.password": "{secret}
status | MIRRORLOG_KAFKA={{"sasl.password": ["{secret}"]}}
status | MIRRORLOG_KAFKA={{"sasl.passwort": "{secret}"}}
status | MIRRORLOG_KAFKA={{"sasl.password": "{secret}", "sasl.password_file": "/x"}}
status | MIRRORLOG_KAFKA={{"sasl.password_file": "{folder}/missing"}}
status | MIRRORLOG_KAFKA={{{tls}, "ssl.key.password": "{secret}", "ssl.key.location": "{pem}"}}
status | MIRRORLOG_KAFKA={{{tls}, "ssl.key.pem": "{secret}"}}
status | MIRRORLOG_KAFKA={{{tls}, "ssl.keystore.location": "{pem}", {keystore}: "{secret}"}}
status | MIRRORLOG_KAFKA={{{oauth}, "sasl.oauthbearer.config": "{secret}"}}
archive verify | MIRRORLOG_ARCHIVE_S3={{"secret_access_key": "{secret}
archive verify | MIRRORLOG_ARCHIVE_S3={{"secret_acces_key": "{secret}", "region": "{secret}"}}
node --http 0.0.0.0:0 | MIRRORLOG_NODE_HTTP_TOKEN_FILE={folder}/token
-c {folder}/broken.toml status
-c {folder}/wrong.toml status
-F {folder}/colon.properties status
status | MIRRORLOG_HOST_KEY=east/1:{secret}
status | MIRRORLOG_HOST_KEY_FILE={folder}/token
-X sasl.password={secret} status
-X sasl.password:{secret} status
-X ssl.key.password_file={folder}/missing status
"""
FILES = {
    "broken.toml": f'node_http_token = "{SECRET}\n',
    "wrong.toml": f'node_http_tokem = "{SECRET}"\nmetrics_token = ["{SECRET}"]\n',
    "colon.properties": f"acks=all\nsasl.password: {SECRET}\n",
    "token": f"{SECRET}\n",
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with files that hold secrets; the environment holds some, too."""
    for name, content in FILES.items():
        (tmp_path / name).write_text(content)
    key = Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"another"),
    )
    (tmp_path / "key.pem").write_bytes(key)
    for name, value in SET.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MIRRORLOG_STATE_DIR", str(tmp_path / "state"))
    return tmp_path


@pytest.mark.parametrize("run", RUNS.strip().splitlines())
def test_no_secret_is_printed(
    run: str, folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    values = {
        "secret": SECRET,
        "folder": folder,
        "pem": folder / "key.pem",
        "keystore": '"ssl.keystore.password"',
        "tls": '"security.protocol": "SSL"',
        "oauth": '"security.protocol": "SASL_PLAINTEXT", "sasl.mechanism": "OAUTHBEARER"',
    }
    line, _, variable = run.partition(" | ")
    if variable:
        name, _, value = variable.partition("=")
        monkeypatch.setenv(name, value.format(**values))
    arguments = [part.format(**values) for part in line.split()]
    code, out, err = run_main(["-v", "--json", *arguments])
    assert (code == 0) == (line in ("config show", "config check")), out + err
    assert out or err
    assert SECRET not in out + err + caplog.text


def test_no_secret_is_in_the_list_of_processes(folder: Path) -> None:
    (folder / "password").write_text(f"{SECRET}\n")
    options = ["-X", f"sasl.password_file={folder}/password", "-v"]
    command = [sys.executable, "-m", "mirrorlog", *options, "topics", "tail", "v"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        listed = wait_until(Path(f"/proc/{process.pid}/cmdline").read_bytes)
        printed, _ = process.communicate(timeout=DEADLINE_S)
    assert b"mirrorlog" in listed
    assert SECRET not in listed.decode() + printed
    assert process.returncode == 1
