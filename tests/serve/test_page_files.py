"""The page's files, without a browser."""

import re


def test_the_page_loads_nothing_from_elsewhere(quiet):
    for path, kind in [
        ("/", "text/html"),
        ("/page.css", "text/css"),
        ("/page.js", "text/javascript"),
    ]:
        status, headers, content = quiet.call("GET", path)
        assert (status, headers["content-type"]) == (200, f"{kind}; charset=utf-8")
        assert "default-src 'self'" in headers["content-security-policy"]
        text = content.decode().replace("http://www.w3.org/2000/svg", "")
        assert "://" not in text
        for part in re.findall(r'(?:src|href|from) ?=? ?"(/[^"]*)"', text):
            assert quiet.call("GET", part)[0] == 200
