#!/usr/bin/env python3
"""Looks at the page of the example `admin` in a real browser, and presses its buttons.

    python3 tests/admin_page.py [--screenshots FOLDER]

The pool's server is in here, so that it can go away, come back, and keep an answer to itself.

Needs cargo, chromium and chromedriver. Without a browser it says so and passes, unless
JACKPOT_REQUIRE_BROWSER is set.
"""

import base64
import concurrent.futures
import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
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
    upstream = Upstream()
    with admin(upstream) as site, session(driver, browser) as page:
        refuses_what_is_wrong(site)
        page_shows_the_numbers_of_stats(site, page)
        page_refreshes_itself(site, page)
        page_has_a_picture(site, page)
        page_says_where_a_lease_was_taken(site, page, upstream)
        page_has_a_banner_during_an_outage(site, page, upstream)
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
    said_again = metrics(site)
    check(said_again['db_client_connection_count state="idle"'] == said["idle"], f"{said_again}")
    check(said_again["db_client_connection_create_time_seconds_count"] == said["connects"], f"{said_again}")
    check(said_again["db_client_connection_use_time_seconds_count"] == 3, f"{said_again}")


def page_refreshes_itself(site, page):
    fetch(site + "/")
    eventually("the page counts one more by itself", lambda: page.text("#allocations") == "4")


def page_has_a_picture(site, page):
    def drawn():
        script = """return [...document.querySelectorAll("#pictures svg path")].map(path => {
            const {width, height} = path.getBoundingClientRect();
            return [path.getAttribute("class"), path.getAttribute("d"), width];
        })"""
        return page.run(script)

    names = [name for name, _, _ in drawn()]
    check(names == ["leased", "waiting", "p50", "p99"], f"drawn is: {names}")
    # Two seconds make a line; that somebody waited for the first connect, a dot.
    eventually("lines are drawn", lambda: all("L" in d and w > 0 for _, d, w in drawn()[:2]))
    eventually("a wait is drawn", lambda: all("M" in d for _, d, _ in drawn()[2:]))
    check(not page.run("return document.querySelectorAll('[src], link:not([rel=icon])').length"),
          "the page loads something from elsewhere")


def page_says_where_a_lease_was_taken(site, page, upstream):
    upstream.answers.clear()
    with concurrent.futures.ThreadPoolExecutor() as elsewhere:
        visit = elsewhere.submit(fetch, site + "/")
        try:
            line = line_with("docs/examples/admin/routes.rs", "ask(site)")
            place = f"docs/examples/admin/routes.rs:{line}"
            leased = lambda: [row for row in page.texts("#connections tbody tr") if "leased" in row]
            eventually("the page shows the lease", lambda: len(leased()) == 1)
            check(place in leased()[0], f"{place} is not in: {leased()[0]}")
            screenshot(page, "lease")
            fits_a_narrow_screen(page, "lease")
        finally:
            upstream.answers.set()
        check(visit.result()[0] == 200, "the visitor got no answer")
    eventually("the place is gone", lambda: place not in page.text("#connections"))


def page_has_a_banner_during_an_outage(site, page, upstream):
    check(page.texts("#outage") == [], "an outage without one")
    with concurrent.futures.ThreadPoolExecutor() as elsewhere:
        upstream.go_away()
        visit = elsewhere.submit(fetch, site + "/")
        try:
            eventually("the banner appears", lambda: len(page.texts("#outage")) == 1)
            banner = page.text("#outage")
            for part in [upstream.address, "Connection refused"]:
                check(part in banner, f"{part} is not in the banner: {banner}")
            check(page.text("#condition") == "the server is away", page.text("#condition"))
            check(metrics(site)["jackpot_outage"] == 1, "no outage in /metrics")
            screenshot(page, "outage")
            fits_a_narrow_screen(page, "outage")
        finally:
            upstream.come_back()
        check(visit.result()[0] in [200, 503], f"the visitor: {visit.result()}")
    eventually("the server is found again", lambda: fetch(site + "/")[0] == 200)
    eventually("the banner goes", lambda: page.texts("#outage") == [])
    check(page.text("#condition") == "running", page.text("#condition"))
    check(metrics(site)["jackpot_outage"] == 0, "still an outage in /metrics")


def fits_a_narrow_screen(page, name):
    size = {"width": 360, "height": 800, "deviceScaleFactor": 2, "mobile": True}
    page.devtools("Emulation.setDeviceMetricsOverride", size)
    screenshot(page, name + "-narrow")
    # The page, and whatever could hide a part of itself behind a scroll bar of its own.
    script = """return [document.documentElement, ...document.querySelectorAll("body *:not(svg, svg *)")]
        .filter(it => it.scrollWidth > Math.max(it.clientWidth, 1) && getComputedStyle(it).display != "inline"
            || it.getBoundingClientRect().right > 360.5)
        .map(it => `${it.tagName} ${it.className} ${it.scrollWidth} > ${it.clientWidth}`)"""
    found = page.run(script)
    page.devtools("Emulation.clearDeviceMetricsOverride", {})
    check(found == [], f"wider than 360 pixels: {found}")


def free_button_changes_the_numbers(site, page):
    before = stats(site)
    closed = before["idle"]
    page.click("#free")
    eventually("the page shows that nothing is idle", lambda: page.text("#idle") == "0")
    check(f"closed {closed}" in page.text("output"), page.text("output"))
    said = stats(site)
    released = said["releases"] - before["releases"]
    check(said["idle"] == 0 and released == closed, f"the pool did not notice: {said}")
    same_as(said, page)
    check(f"freed {closed}" in page.texts("#evictions tr"), "the reason is not given")
    freed = metrics(site)['jackpot_evictions_total cause="freed"']
    check(freed == closed, f"freed in /metrics: {freed}")


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
    question = page.call("GET", "/alert/text")
    check("for good" in question, f"it asks: {question}")
    page.call("POST", "/alert/dismiss", {})
    check(fetch(site + "/")[0] == 200, "ended without being sure")
    page.click("#end")
    page.call("POST", "/alert/accept", {})
    eventually("the page says that it ended", lambda: page.text("#condition") == "ended")
    check(fetch(site + "/")[0] == 503, "the pool did not notice")


def same_as(said, page):
    """Every number of the line that `Stats` prints is on the page."""
    for name, number in said.items():
        shown = page.text("#" + name.replace(" ", "-"))
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


def metrics(site):
    """What Prometheus gets, each line of which must be well formed: {"name label=\"value\"": 1.0}."""
    found = {}
    for line in fetch(site + "/metrics")[1].splitlines():
        if re.fullmatch(r"# HELP [a-z_]+ .+|# TYPE [a-z_]+ (gauge|counter|histogram)", line):
            continue
        pair = r'[a-z_]+="(?:[^"\\\\]|\\\\.)*"'
        parts = re.fullmatch(rf"([a-z_]+){{({pair}(?:,{pair})*)}} ([0-9.e+-]+)", line)
        check(parts, f"not a line of metrics: {line}")
        name, labels, value = parts.groups()
        labels = re.findall(pair, labels)
        check("pool_name" in labels[0], f"of which pool is it: {line}")
        others = [label.removeprefix("db_client_connection_") for label in labels[1:]]
        found[" ".join([name, *others])] = float(value)
    return found


def screenshot(page, name):
    if "--screenshots" in sys.argv:
        folder = sys.argv[sys.argv.index("--screenshots") + 1]
        taken = page.devtools("Page.captureScreenshot", {"captureBeyondViewport": True})
        with open(f"{folder}/{name}.png", "wb") as file:
            file.write(base64.b64decode(taken["data"]))


def line_with(path, text):
    with open(path) as file:
        lines = [number for number, line in enumerate(file, 1) if text in line]
    check(len(lines) == 1, f"{len(lines)} lines of {path} have {text}")
    return lines[0]


def first_line_with(process, pattern):
    for line in process.stdout:
        if found := re.search(pattern, line):
            return found[1]
    raise SystemExit(f"admin_page: {process.args[0]} ended early with {process.wait()}")


class Upstream:
    """A server that sends each line back: while `answers` is set, and while it is not away."""

    def __init__(self):
        self.answers = threading.Event()
        self.answers.set()
        self.port = 0
        self.come_back()
        self.address = f"127.0.0.1:{self.port}"

    def come_back(self):
        self.listener = socket.create_server(("127.0.0.1", self.port))
        self.port = self.listener.getsockname()[1]
        self.accepted = []
        threading.Thread(target=self.accept, args=[self.listener], daemon=True).start()

    def go_away(self):
        # The thread in `accept` would keep the port open for as long as it waits.
        for it in [self.listener, *self.accepted]:
            with contextlib.suppress(OSError):
                it.shutdown(socket.SHUT_RDWR)
            it.close()

    def accept(self, listener):
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                self.accepted.append(connection)
                threading.Thread(target=self.serve, args=[connection], daemon=True).start()

    def serve(self, connection):
        with contextlib.suppress(OSError):
            for line in connection.makefile("rb"):
                self.answers.wait()
                connection.sendall(line)


@contextlib.contextmanager
def admin(upstream):
    """The example, without load of its own; where it listens."""
    command = ["cargo", "run", "--quiet", "--example", "admin", "--", "--load", "0"]
    command += ["--upstream", upstream.address, "--timeout", "30"]
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

    def run(self, script, *args):
        return self.call("POST", "/execute/sync", {"script": script, "args": args})

    def devtools(self, command, parameters):
        return self.call("POST", "/goog/cdp/execute", {"cmd": command, "params": parameters})

    def find(self, selector):
        where = {"using": "css selector", "value": selector}
        return self.call("POST", "/element", where)[ELEMENT]

    def click(self, selector):
        self.call("POST", f"/element/{self.find(selector)}/click", {})

    def texts(self, selector):
        # In one step, because the page replaces what it shows each second.
        script = "return [...document.querySelectorAll(arguments[0])].map(it => it.innerText)"
        return [" ".join(text.split()) for text in self.run(script, selector)]

    def text(self, selector):
        found = self.texts(selector)
        check(len(found) == 1, f"{len(found)} of {selector} on the page")
        return found[0]


if __name__ == "__main__":
    sys.exit(main())
