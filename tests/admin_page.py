#!/usr/bin/env python3
"""Looks at the page of the example `admin` in a real browser, and presses its buttons.

    python3 tests/admin_page.py [--screenshot FILE]

Needs cargo, chromium and chromedriver. Without a browser it says so and passes, unless
JACKPOT_REQUIRE_BROWSER is set.
"""

import base64
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

# Far longer than anything here takes; only a failing check waits for it.
SOON = 60
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # WebDriver's name for "this is an element"


def main():
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if not browser or not driver:
        missing = "chromedriver" if browser else "chromium"
        print(f"admin_page: {missing} is not installed: nothing was looked at", file=sys.stderr)
        return 1 if os.environ.get("JACKPOT_REQUIRE_BROWSER") else 0
    with admin() as site, session(driver, browser) as page:
        refuses_what_is_wrong(site)
        page_shows_the_numbers_of_stats(site, page)
        page_refreshes_itself(site, page)
        if "--screenshot" in sys.argv:
            picture = sys.argv[sys.argv.index("--screenshot") + 1]
            with open(picture, "wb") as file:
                file.write(base64.b64decode(page.call("GET", "/screenshot")))
        free_button_changes_the_numbers(site, page)
        limit_button_changes_the_limit(site, page)
        end_button_ends_the_pool(site, page)
    print("admin_page: the page shows what the pool says, and its buttons work")
    return 0


def refuses_what_is_wrong(site):
    for path in ["/free", "/free?keep=", "/free?keep=-1", "/free?keep=all", "/limit?n=99999999999"]:
        status, text = fetch(site + path, "POST")
        check(status == 400 and "must be a whole number" in text, f"{path}: {status} {text}")
    check(fetch(site + "/free?keep=0")[0] == 405, "GET changed something")
    check(fetch(site + "/nowhere")[0] == 404, "there is no such page")
    elsewhere = {"Sec-Fetch-Site": "cross-site"}
    check(fetch(site + "/end", "POST", elsewhere)[0] == 403, "another site may end the pool")


def page_shows_the_numbers_of_stats(site, page):
    for _ in range(3):
        status, text = fetch(site + "/")
        check(status == 200, f"the upstream is away: {text}")
    page.call("POST", "/url", {"url": site + "/pool"})
    said = stats(site)
    check(said["idle"] >= 1 and said["allocations"] == 3, f"no load on the pool: {said}")
    same_as(said, page)
    check(page.text("#condition") == "running", page.text("#condition"))
    rows = page.texts("#connections tbody tr")
    check(len(rows) == said["idle"], f"{len(rows)} rows for {said['idle']} connections")
    check(all("idle" in row and "127.0.0.1:" in row for row in rows), f"rows: {rows}")
    metrics = fetch(site + "/metrics")[1]
    for line in [f"jackpot_idle {said['idle']}", f"jackpot_connects_total {said['connects']}"]:
        check(line in metrics.splitlines(), f"not in /metrics: {line}")


def page_refreshes_itself(site, page):
    fetch(site + "/")
    eventually("the page counts one more by itself", lambda: page.text("#allocations_total") == "4")


def free_button_changes_the_numbers(site, page):
    closed = stats(site)["idle"]
    page.click("#free")
    eventually("the page shows that nothing is idle", lambda: page.text("#idle") == "0")
    check(f"closed {closed}" in page.text("output"), page.text("output"))
    said = stats(site)
    check(said["idle"] == 0 and said["releases"] == closed, f"the pool did not notice: {said}")
    same_as(said, page)
    check(f"freed {closed}" in page.texts("#evictions tr"), "the reason is not given")
    cause = f'jackpot_evictions_total{{cause="freed"}} {closed}'
    check(cause in fetch(site + "/metrics")[1].splitlines(), f"not in /metrics: {cause}")


def limit_button_changes_the_limit(site, page):
    field = page.find("input[name=n]")
    page.call("POST", f"/element/{field}/clear", {})
    page.call("POST", f"/element/{field}/value", {"text": "seven"})
    page.click("#set-limit")
    eventually("the page says what is wrong", lambda: "whole number" in page.text("output"))
    page.call("POST", f"/element/{field}/clear", {})
    page.call("POST", f"/element/{field}/value", {"text": "7"})
    page.click("#set-limit")
    eventually("the page shows the new limit", lambda: page.text("#limit") == "7")
    check(stats(site)["limit"] == 7, "the pool did not notice")


def end_button_ends_the_pool(site, page):
    page.click("#end")
    page.call("POST", "/alert/dismiss", {})
    check(fetch(site + "/")[0] == 200, "ended without being sure")
    page.click("#end")
    page.call("POST", "/alert/accept", {})
    eventually("the page says that it ended", lambda: page.text("#condition") == "ended")
    check(fetch(site + "/")[0] == 503, "the pool did not notice")


def same_as(said, page):
    """Every number of the line that `Stats` prints is on the page."""
    names = {"allocations": "allocations_total", "connects": "connects_total"}
    names |= {"failed connects": "connect_failures_total", "releases": "releases_total"}
    for name, number in said.items():
        shown = page.text("#" + names.get(name, name))
        check(shown == str(number), f"{name} is {number}, and the page says {shown}")


def check(condition, otherwise):
    if not condition:
        raise SystemExit(f"admin_page: {otherwise}")


def eventually(what, condition):
    deadline = time.monotonic() + SOON
    while not condition():
        check(time.monotonic() < deadline, f"never happened: {what}")
        time.sleep(0.05)


def fetch(url, method="GET", headers=None, body=None):
    request = urllib.request.Request(url, method=method, headers=headers or {}, data=body)
    try:
        with urllib.request.urlopen(request, timeout=SOON) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def stats(site):
    """The numbers of the line that `Stats` prints: {"limit": 20, "idle": 3, …}."""
    line = fetch(site + "/stats")[1].strip()
    found = dict([("limit", int(re.match(r"limit (\d+)", line)[1]))])
    known = "idle|leased|connecting|waiting|allocations|connects|failed connects|releases"
    for number, name in re.findall(rf"(\d+) ({known})\b", line):
        found[name] = int(number)
    check(len(found) == 9, f"not a line of statistics: {line}")
    return found


def first_line_with(process, pattern):
    for line in process.stdout:
        if found := re.search(pattern, line):
            return found[1]
    raise SystemExit(f"admin_page: {process.args[0]} ended early with {process.wait()}")


@contextlib.contextmanager
def admin():
    """The example, without load of its own; where it listens."""
    command = ["cargo", "run", "--quiet", "--example", "admin", "--", "--load", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        yield first_line_with(process, r"^listening on (\S+)")
        process.send_signal(signal.SIGINT)
        rest = process.communicate(timeout=SOON)[0]
        check(process.returncode == 0, f"Ctrl-C: exit code {process.returncode}")
        check("0 leased" in rest, f"the last line is no statistics: {rest}")
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def session(driver, browser):
    """A window of the browser, driven through chromedriver's HTTP interface."""
    driving = subprocess.Popen([driver, "--port=0"], stdout=subprocess.PIPE, text=True)
    try:
        port = first_line_with(driving, r"started successfully on port (\d+)")
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
            page = Page(f"http://127.0.0.1:{port}", browser, profile)
            try:
                yield page
            finally:
                page.call("DELETE", "")
    finally:
        driving.terminate()
        driving.wait()


class Page:
    def __init__(self, driver, browser, profile):
        quiet = "--disable-gpu --disable-quic --no-first-run --disable-background-networking"
        quiet += " --disable-component-update --disable-sync --window-size=1200,1000"
        options = ["--headless", "--no-sandbox", f"--user-data-dir={profile}", *quiet.split()]
        wanted = {"goog:chromeOptions": {"binary": browser, "args": options}}
        wanted |= {"unhandledPromptBehavior": "ignore"}
        self.base = f"{driver}/session"
        made = self.call("POST", "", {"capabilities": {"alwaysMatch": wanted}})
        self.base += "/" + made["sessionId"]

    def call(self, method, path, body=None):
        body = None if body is None else json.dumps(body).encode()
        kind = {"Content-Type": "application/json"}
        status, text = fetch(self.base + path, method, kind, body)
        check(status == 200, f"the browser refuses {path}: {text}")
        return json.loads(text)["value"]

    def find(self, selector):
        where = {"using": "css selector", "value": selector}
        return self.call("POST", "/element", where)[ELEMENT]

    def click(self, selector):
        self.call("POST", f"/element/{self.find(selector)}/click", {})

    def texts(self, selector):
        # In one step, because the page replaces what it shows each second.
        script = "return [...document.querySelectorAll(arguments[0])].map(it => it.innerText)"
        found = self.call("POST", "/execute/sync", {"script": script, "args": [selector]})
        return [" ".join(text.split()) for text in found]

    def text(self, selector):
        found = self.texts(selector)
        check(len(found) == 1, f"{len(found)} of {selector} on the page")
        return found[0]


if __name__ == "__main__":
    sys.exit(main())
