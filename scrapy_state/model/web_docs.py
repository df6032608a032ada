"""Where the documentation is on the web, for messages that refer to it. Pure."""

#: The same as ``Documentation`` in pyproject.toml's project.urls
SITE = "https://scrapy-checkpoints.readthedocs.io/en/latest/"


def docs_url(page: str, section: str = "") -> str:
    """Return the URL of a page of the documentation, or of a section of it.

    :param page: the name of its file in docs/, without ".md"
    :param section: the heading as an anchor: "state-items-while-requests-are-out"
    """
    return f"{SITE}{page}.html{'#' if section else ''}{section}"
