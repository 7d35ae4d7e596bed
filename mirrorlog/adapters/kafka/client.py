"""A librdkafka client that repeats a request until the cluster answers or refuses it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from threading import Thread
from traceback import clear_frames
from typing import Any, Final, TypeAlias, TypeVar, cast

import stamina
from confluent_kafka import KafkaError, KafkaException

from mirrorlog.adapters.kafka.first_answer import (
    Waiting,
    attempt_timeout_s,
    gives_up,
    reason_of,
    takes_connections,
)
from mirrorlog.adapters.kafka.outage_log import OutageLog
from mirrorlog.bootstrap_servers import SERVERS_KEY, BootstrapServers
from mirrorlog.domain.host_keys import SIGNER_KEY
from mirrorlog.errors import BadUse, KafkaFailed
from mirrorlog.ports.clock import Clock, SystemClock
from mirrorlog.registry_access import REGISTRY_KEY
from mirrorlog.settings import ClientValue
from mirrorlog.units import format_duration

log = logging.getLogger("mirrorlog.kafka")

_Answer = TypeVar("_Answer")

ClientSettings: TypeAlias = Mapping[str, ClientValue]
"""Settings by librdkafka's names, and under SERVERS_KEY who named the servers."""

READ_UNCOMMITTED: Final[ClientSettings] = {"isolation.level": "read_uncommitted"}
"""The one isolation level, put last into the settings of every consumer (invariant 16).

librdkafka's default is read_committed. A transaction that anybody left open in a partition then
hides everything behind it, and the partition seems to end there.
"""
CHECK_BROKER: Final = "Check bootstrap.servers, security.protocol and that the broker runs."
CHECK_CREDENTIALS: Final = (
    "Check security.protocol and the sasl.* and ssl.* settings (-X, -F, [kafka])."
)
FIRST_ANSWER_S: Final = 3.0
"""The first answer of a cluster may take this long, also if the caller has no patience."""
_LEAST_S: Final = 0.001
"""A patience of 0 means one attempt. stamina warns of a timeout of 0."""
REQUEST_S: Final = 10.0
"""The longest timeout of one attempt."""
_FIRST_REQUEST_S: Final = 2.0
_RELEASE_S: Final = 1.0
_DESTROY_BROKER: Final = -137
"""RD_KAFKA_RESP_ERR__DESTROY_BROKER, which older releases of confluent-kafka don't name."""
_UNAVAILABLE: Final = frozenset(
    {
        KafkaError._ALL_BROKERS_DOWN,
        KafkaError._DESTROY,  # of one broker: the cluster has just named others, or none
        _DESTROY_BROKER,  # the same
        KafkaError._RESOLVE,  # of a broker that is down, where names go with their machines
        KafkaError._TIMED_OUT,
        KafkaError._TIMED_OUT_QUEUE,
        KafkaError._TRANSPORT,
        KafkaError._UNKNOWN_PARTITION,
        KafkaError._UNKNOWN_TOPIC,
        KafkaError._WAIT_COORD,
        KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
        KafkaError.COORDINATOR_NOT_AVAILABLE,
        KafkaError.FENCED_LEADER_EPOCH,
        KafkaError.KAFKA_STORAGE_ERROR,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.LISTENER_NOT_FOUND,
        KafkaError.NETWORK_EXCEPTION,
        KafkaError.NOT_CONTROLLER,
        KafkaError.NOT_COORDINATOR,
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.OFFSET_NOT_AVAILABLE,
        KafkaError.REPLICA_NOT_AVAILABLE,
        KafkaError.REQUEST_TIMED_OUT,
        KafkaError.UNKNOWN_LEADER_EPOCH,
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError.UNSTABLE_OFFSET_COMMIT,
    }
)
"""Errors while a broker is away, while it elects a leader, or just after a topic was created.

Those of a broker are the retriable ones of "Error Codes" in Kafka's protocol guide, as far as they
answer requests of ours. librdkafka's retriable() is false for most of them.
"""
_STALE_METADATA: Final = frozenset(
    {
        KafkaError._RESOLVE,
        KafkaError._TIMED_OUT,
        KafkaError._UNKNOWN_PARTITION,
        KafkaError.FENCED_LEADER_EPOCH,
        KafkaError.UNKNOWN_LEADER_EPOCH,
    }
)
"""Errors after which the metadata that librdkafka has cached must be replaced.

A broker that has just restarted and leads no partition yet answers with metadata without
partitions, which is cached for minutes. A leader's epoch in it may be older than the broker's.
librdkafka goes on asking a former leader whose name is gone, though another one leads. It may wait
without end for a controller that is lost, though another broker is the controller.
"""
_REFUSED: Final = frozenset(
    {
        KafkaError._AUTHENTICATION,
        KafkaError._SSL,
        KafkaError.ILLEGAL_SASL_STATE,
        KafkaError.SASL_AUTHENTICATION_FAILED,
        KafkaError.UNSUPPORTED_SASL_MECHANISM,
    }
)
"""Errors of a connection that another attempt doesn't mend: the login or a certificate is wrong."""

_REFUSED_TEXTS: Final = ("SSL alert number", "certificate verify failed")
"""Parts of an error's text that say the same of a connection."""

_CONNECTION: Final = _REFUSED | {
    KafkaError._RESOLVE,
    KafkaError._TIMED_OUT,
    KafkaError._TRANSPORT,
}
"""Errors of a connection."""
_OUTAGES: Final = OutageLog(SystemClock())


def answered(call: Callable[[float], _Answer], timeout_s: float) -> _Answer:
    """Return what `call` returns, which takes the timeout.

    A future raises TimeoutError if librdkafka hasn't ended its request in time, as it does when it
    waits for a broker that is away. Raise KafkaException then, as if librdkafka had said so.
    """
    try:
        return call(timeout_s)
    except TimeoutError as error:
        text = f"no answer within {timeout_s:.1f} s"
        raise KafkaException(KafkaError(KafkaError._TIMED_OUT, text)) from error


class _DebugLogger:
    """Logs librdkafka's own lines as details.

    librdkafka writes twenty lines a second while a broker is away, and calls what it mends itself a
    warning. What matters of them becomes an error of mirrorlog.
    """

    def log(self, level: int, text: str, *values: object) -> None:
        """Log a line of librdkafka, whatever its level."""
        del level
        log.debug(text, *values)


class _Released:
    """The place of a client that was released. It has no callbacks to run and nothing queued."""

    def poll(self, _timeout_s: float) -> int:
        """Do nothing."""
        return 0

    def flush(self, _timeout_s: float) -> int:
        """Do nothing."""
        return 0

    def __getattr__(self, name: str) -> Any:
        """Raise KafkaException, as librdkafka does for a client that is closed."""
        raise KafkaException(KafkaError(KafkaError._STATE, "the client is closed"))


def _drop(clients: list[Any]) -> None:
    """Remove the last reference to a client: confluent-kafka destroys it and joins its threads."""
    clients.clear()


class KafkaClient:
    """A librdkafka client (`raw`) with retries, and with the last error of its connections.

    librdkafka retries for ever, even where the cluster refuses the login: a request then only times
    out. It reports the reason to a callback, which runs when the client is polled.

    is_away: a connection failed, and the cluster hasn't answered since.
    """

    def __init__(
        self,
        make: Callable[..., Any],
        settings: Mapping[str, Any],
        run_callbacks: Callable[[], object] | None = None,
        *,
        clock: Clock | None = None,
        outages: OutageLog = _OUTAGES,
        takes_connections: Callable[[str], bool] = takes_connections,
    ) -> None:
        """Create the client. Raise BadUse if librdkafka refuses the settings.

        make: confluent_kafka's class of the client.
        run_callbacks: polls the client without losing a message. The default polls a client that
        receives no messages.
        """
        settings = dict(settings)
        self._named: BootstrapServers | None = settings.pop(SERVERS_KEY, None)
        settings.pop(REGISTRY_KEY, None)
        settings.pop(SIGNER_KEY, None)
        self._servers = str(settings.get("bootstrap.servers"))
        self._clock, self._outages = clock or SystemClock(), outages
        self._takes_connections = takes_connections
        self._connection_error: KafkaError | None = None
        self._all_failed = False
        self.is_away = False
        self._make, self._settings = make, settings
        try:
            self.raw: Any = make({**settings, "error_cb": self._on_error}, logger=_DebugLogger())
        except (KafkaException, ValueError, TypeError) as error:
            raise BadUse(
                f"Kafka's client refuses its settings: {error}", next="Check -X, -F and [kafka]."
            ) from error
        self._run_callbacks = run_callbacks or (lambda: self.run_callbacks(self.raw.poll, 0))

    def run_callbacks(self, call: Callable[[float], int], timeout_s: float) -> int:
        """Return the result of raw.poll or raw.flush, which run callbacks.

        Raise KafkaException once Kafka has refused the client for good. confluent-kafka sets this
        exception and goes on with the callbacks that are due. They run while it is set, so they
        make it the cause of a SystemError, or clear it. A SystemError without a cause ends the call
        then, and another client asks what Kafka refuses.
        """
        try:
            return call(timeout_s)
        except SystemError as error:
            if isinstance(error.__cause__, KafkaException):
                raise error.__cause__ from None
            if "without setting an exception" not in str(error):
                raise
            raise KafkaException(self.fatal_error()) from error

    def release(self) -> None:
        """Destroy librdkafka's client, whose threads end. A second call does nothing.

        Without it they run until the process ends, because errors and callbacks refer to the
        client. OpenSSL clears its state at exit, and a thread in a TLS handshake then crashes. A
        thread that is stuck, as in a look-up of a name, isn't waited for longer than _RELEASE_S.
        Every further request raises KafkaFailed.
        """
        clients, self.raw = [self.raw], _Released()
        dropping = Thread(target=_drop, args=(clients,), name="kafka-release", daemon=True)
        dropping.start()
        dropping.join(_RELEASE_S)

    def fatal_error(self) -> KafkaError:
        """Return what Kafka refuses to a new client with the same settings, which logs nothing.

        Call it if Kafka has refused this client for good, and its reason is lost.
        """
        probe = self._make({**self._settings, "log_level": 0})
        end_s = self._clock.monotonic_s() + REQUEST_S
        try:
            while self._clock.monotonic_s() < end_s:
                probe.poll(0.1)
        except KafkaException as error:
            return cast(KafkaError, error.args[0])
        return KafkaError(KafkaError._FATAL)

    def _on_error(self, error: KafkaError) -> None:
        # _ALL_BROKERS_DOWN follows every other error and doesn't name a reason. It comes alone when
        # the broker has closed the last connection because it was idle.
        if error.code() == KafkaError._ALL_BROKERS_DOWN:
            self._all_failed = self._connection_error is not None
            return
        self._connection_error = error
        if error.code() in _CONNECTION:
            self.is_away = True
            self._outages.failed(self._servers, error.str())

    def note_answer(self) -> None:
        """Note that the cluster has answered. Call it if `is_away` is set."""
        self.is_away = self._all_failed = False
        self._outages.answered(self._servers)

    def _is_refused(self) -> bool:
        # In TLS 1.3 a broker refuses a client's certificate after the handshake. librdkafka reports
        # that as a lost connection, and now and then a broker's certificate that it refuses, too.
        error = self._connection_error
        return error is not None and (
            error.code() in _REFUSED or any(text in error.str() for text in _REFUSED_TEXTS)
        )

    def request(
        self, call: Callable[[float], Any], *, patience_s: float, doing: str, where: str
    ) -> Any:
        """Return the result of `call`, which is repeated while the cluster is unavailable.

        call: takes the timeout of this attempt in seconds. The first timeouts are short, because a
        refusal is noticed only between two attempts. A TimeoutError of it, as a future raises it
        whose request librdkafka hasn't ended in time, is an attempt without an answer.
        doing, where: the start of the error's text, and its `where`.

        Raise KafkaFailed after `patience_s`, as soon as the cluster refuses the client, or, if the
        servers say so, when nothing connects in time (BootstrapServers.connect_within_s).
        """
        began_s = self._clock.monotonic_s()
        has_answered = self._outages.has_answered(self._servers)
        try:
            for attempt in stamina.retry_context(
                lambda error: self._is_worth_another(error, began_s, patience_s),
                attempts=None,
                timeout=max(patience_s, _LEAST_S if has_answered else FIRST_ANSWER_S),
                wait_initial=0.05,
                wait_max=0.5,
                wait_jitter=0.05,
            ):
                with attempt:
                    timeout_s = attempt_timeout_s(
                        attempt.num,
                        has_answered=has_answered,
                        all_failed=self._all_failed,
                        longest_s=REQUEST_S,
                    )
                    result = answered(call, timeout_s)
                    self._connection_error = None
                    if self.is_away or not has_answered:
                        self.note_answer()
                    return result
        except KafkaException as error:
            # The frames of confluent-kafka's methods refer to its client: see release().
            clear_frames(error.__traceback__)
            raise self._failure(error.args[0], doing, where, began_s) from error
        raise AssertionError("a retry context ends by a return or by an error")

    def _is_worth_another(self, error: Exception, began_s: float, patience_s: float) -> bool:
        """Return whether another attempt may succeed after `error`. Replace stale metadata."""
        self._run_callbacks()
        if (
            not isinstance(error, KafkaException)
            or error.args[0].code() not in _UNAVAILABLE
            or self._is_refused()
        ):
            return False
        waited_s = self._clock.monotonic_s() - began_s
        if not self._outages.has_answered(self._servers):
            return self._goes_on_waiting(waited_s)
        left_s = patience_s - waited_s
        if error.args[0].code() in _STALE_METADATA and left_s > 0:
            with suppress(KafkaException):
                self.raw.list_topics(timeout=min(left_s, _FIRST_REQUEST_S))
        return True

    def _goes_on_waiting(self, waited_s: float) -> bool:
        """Return whether to wait longer for a first answer; say that the client waits."""
        connect_within_s = self._named.connect_within_s if self._named else None
        reason = self._connection_reason()
        waiting = Waiting(waited_s, connect_within_s, self._all_failed)
        if gives_up(waiting, lambda: self._takes_connections(self._servers)):
            return False
        if connect_within_s is None or reason is None:
            self._outages.waits(self._servers, waited_s, self._describe_wait)
        return True

    def _connection_reason(self) -> str | None:
        return reason_of(self._connection_error.str()) if self._connection_error else None

    def _describe_wait(self) -> str:
        """Return why no answer has come yet, and why these servers are asked."""
        named = f" ({self._named.chosen_by()})" if self._named else ""
        return f"{self._why_silent()}{named}"

    def _why_silent(self) -> str:
        if reason := self._connection_reason():
            return reason
        if self._takes_connections(self._servers):
            return "it takes connections, no answer yet"
        return "nothing takes a connection there"

    def _failure(self, error: KafkaError, doing: str, where: str, began_s: float) -> KafkaFailed:
        """Return the error of a request that failed for good."""
        reason = self._connection_reason()
        if error.code() not in _UNAVAILABLE and reason is None:
            return KafkaFailed(f"{doing} failed: {error.str()}", where=where, next=CHECK_BROKER)
        named = self._named
        place = f"Kafka at {self._servers}" + (f", {named.chosen_by()}" if named else "")
        where = place if where == self._servers else f"{where}; {place}"
        if self._outages.has_answered(self._servers):
            next_step = CHECK_BROKER
            text = f"{error.str()}; {reason}" if reason else error.str()
        else:
            next_step = named.next_step() if named else CHECK_BROKER
            waited = format_duration(self._clock.monotonic_s() - began_s)
            text = f"no answer within {waited}: {self._why_silent()}"
        if self._is_refused() or "security.protocol" in (reason or ""):
            next_step = CHECK_CREDENTIALS
        return KafkaFailed(f"{doing} failed: {text}", where=where, next=next_step)

    def check(self) -> None:
        """Raise KafkaFailed if the cluster refuses this client now. A past refusal is cleared."""
        if self._is_refused():
            self.request(
                lambda timeout_s: self.raw.list_topics(timeout=timeout_s),
                patience_s=REQUEST_S,
                doing="talking to Kafka",
                where=self._servers,
            )
