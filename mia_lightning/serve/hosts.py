"""The names by which this server may be asked: no page in a browser can post to it, or read from it.

A page of another site posts with that site in the header `Origin`. A page whose name was made to point here (DNS
rebinding) is of this site for the browser, and asks with its own name in the header `Host`.
"""

import ipaddress
import re
import socket
from dataclasses import dataclass

from starlette.requests import Request

from mia_lightning.serve.listening import is_loopback
from mia_lightning.serve.refusals import RefusedError

_HOST = re.compile(r"(?:\[([0-9a-f:.]{2,45})\]|([\w.-]{1,253}))(?::[0-9]{1,5})?", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class Hosts:
    """Checks by which name a request asks, and whose page it comes from.

    Attributes:
        names: that are taken, in small letters; addresses of this machine need not be among them.
        loopback: whether this machine alone can ask. Else any address that is a number is taken, since to such a one no
            page can be rebound.
    """

    names: frozenset[str]
    loopback: bool

    @classmethod
    def of(cls, listening: socket.socket, typed: list[str]) -> "Hosts":
        """Of a server at a socket.

        Args:
            typed: further names.
        """
        loopback = is_loopback(listening)
        own = ["localhost"] if loopback else ["localhost", socket.gethostname()]
        return cls(names=frozenset(name.lower() for name in (*own, *typed)), loopback=loopback)

    def check(self, request: Request) -> None:
        """Refuse a request by another name, or of a page of another site.

        Raises:
            RefusedError: it is one.
        """
        hosts = request.headers.getlist("host")
        if len(hosts) != 1 or not self._is_own(hosts[0].lower()):
            given = ", ".join(hosts)[:100]
            raise RefusedError(
                421,
                f"the request asks for the host {given!r}, none of this server's names; ask by its address, or start "
                "it with --allowed-host and this name",
            )
        own = {f"{scheme}://{hosts[0].lower()}" for scheme in ("http", "https")}
        foreign = [each for each in request.headers.getlist("origin") if each.lower() not in own]
        if foreign:
            raise RefusedError(
                403, f"the request comes from a page of {foreign[0][:100]!r}; this server answers programs, not pages"
            )

    def _is_own(self, host: str) -> bool:
        match = _HOST.fullmatch(host)
        if match is None:
            return False
        name = match[1] or match[2]
        if name in self.names:
            return True
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return False
        return address.is_loopback or not self.loopback
