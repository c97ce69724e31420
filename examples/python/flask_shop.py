# Copyright 2026 The pushit authors
# SPDX-License-Identifier: Apache-2.0
"""The shop of the guide, with Flask. Users log in and see when their orders are shipped.

It stands for your application: pushit needs the two routes below /pushit/, and whatever
publishes.
"""
import hmac
import os
import re

from flask import Flask, abort, request, session

from pushit import PushIt

app = Flask(__name__)
app.secret_key = os.environ["PUBLISHER_SECRET"] + " for cookies"
app.config["SESSION_COOKIE_SAMESITE"] = "Lax"
push = PushIt(os.environ.get("PUSHIT_URL", "http://localhost:8080/push"), os.environ["PUBLISHER_SECRET"])

# Your application has users and orders of its own.
PASSWORDS = {"ann": "wonderland", "bob": "builder"}
OWNERS = {"1": "ann", "2": "bob"}


@app.post("/login")
def login():
    user, password = request.form.get("user", ""), request.form.get("password", "")
    if user not in PASSWORDS or not hmac.compare_digest(PASSWORDS[user].encode(), password.encode()):
        abort(403)
    session["user"] = user
    return "", 204


@app.get("/pushit/session")
def pushit_session():
    """Who is this? pushit asks when a page connects, with the cookies of the page."""
    if "user" not in session:
        abort(401)
    return "", 204, {"Remote-User": session["user"]}


@app.get("/pushit/channel")
def pushit_channel():
    """May this user subscribe? pushit asks for each subscription."""
    order = re.fullmatch(r"orders/([0-9]+)", request.args.get("channel", ""))
    if "user" not in session or not order or OWNERS.get(order[1]) != session["user"]:
        abort(403)
    return "", 204


@app.post("/orders/<order>/ship")
def ship(order):
    if "user" not in session or OWNERS.get(order) != session["user"]:
        abort(403)
    # The uuid says what happened, so that it is published once, however often this runs.
    push.publish(f"orders/{order}", {"status": "shipped"}, uuid=f"order-{order}-shipped")
    return "", 204
