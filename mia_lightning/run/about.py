"""What the user says of an audit, for the first page of its report: the `report` section of the configuration."""

from mia_lightning.settings import settings
from mia_lightning.settings.kinds import Name


@settings("report")
class About:
    """Names on the first page of the report.

    Attributes:
        title: of the report.
        model: what the model under attack is called, and its version.
        owner: who is responsible for it.
    """

    title: Name | None = None
    model: Name | None = None
    owner: Name | None = None
