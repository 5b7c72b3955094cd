"""What targets on a server of one's choice have in common: an address, the name of a model there, and a token."""

from urllib.parse import quote

from mia_lightning.settings import settings
from mia_lightning.settings.kinds import Name, Text
from mia_lightning.targets.address import Address, TokenVariable
from mia_lightning.targets.endpoints.models import EndpointTarget
from mia_lightning.targets.http_client import DEFAULT_TOKEN_VARIABLE, HttpClient, token_headers


@settings("target")
class NamedModel(EndpointTarget):
    """A model that a server has under a name.

    Attributes:
        url: of the server, up to where the protocol's own path begins.
        model: its name there.
        version: of the model; None for the server's choice.
        token_variable: the environment variable with a token; "" for none.
        token_header: `Authorization` sends "Bearer" and the token, any other the token alone.

    Raises:
        InputError: `url` is no address or holds something secret.
    """

    url: Address
    model: Name
    version: Name | None = None
    token_variable: TokenVariable = DEFAULT_TOKEN_VARIABLE
    token_header: Text = "Authorization"

    @property
    def path(self) -> str:
        """The part of the path that names the model, behind the protocol's own part."""
        version = "" if self.version is None else f"/versions/{quote(self.version, safe='')}"
        return f"models/{quote(self.model, safe='')}{version}"

    def client(self) -> HttpClient:
        """Connections to the server."""
        return HttpClient(
            self.url,
            timeout=self.asking.timeout,
            connections=self.asking.concurrency,
            authorise=token_headers(self.token_variable, self.token_header),
        )
