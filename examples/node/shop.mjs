// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

/**
 * The shop of the guide, with Express. Users log in and see when their orders are shipped.
 * It stands for your application: pushit needs the two routes below /pushit/, and whatever
 * publishes.
 *
 * @module
 */

import { createHash, timingSafeEqual } from "node:crypto";
import express from "express";
import session from "express-session";
import { publish } from "./pushit.mjs";

// Your application has users and orders of its own.
const passwords = new Map([["ann", "wonderland"], ["bob", "builder"]]);
const owners = new Map([["1", "ann"], ["2", "bob"]]);
const mayView = (user, order) => user !== undefined && owners.get(order) === user;

const digest = (text) => createHash("sha256").update(text).digest();

const app = express();
app.use(express.urlencoded());
app.use(session({ secret: `${process.env.PUBLISHER_SECRET} for cookies`, resave: false, saveUninitialized: false, cookie: { sameSite: "lax" } }));

app.post("/login", (request, response, next) => {
  const { user, password } = request.body ?? {};
  if (!passwords.has(user) || !timingSafeEqual(digest(passwords.get(user)), digest(String(password)))) return response.sendStatus(403);
  request.session.regenerate((error) => {
    if (error) return next(error);
    request.session.user = user;
    response.sendStatus(204);
  });
});

// Who is this? pushit asks when a page connects, with the cookies of the page.
app.get("/pushit/session", ({ session: { user } }, response) => {
  if (user === undefined) return response.sendStatus(401);
  response.set("Remote-User", user).sendStatus(204);
});

// May this user subscribe? pushit asks for each subscription.
app.get("/pushit/channel", ({ query, session: { user } }, response) => {
  const [, order] = /^orders\/(\d+)$/.exec(query.channel) ?? [];
  response.sendStatus(mayView(user, order) ? 204 : 403);
});

app.post("/orders/:order/ship", async ({ params: { order }, session: { user } }, response) => {
  if (!mayView(user, order)) return response.sendStatus(403);
  // The uuid says what happened, so that it is published once, however often this runs.
  await publish(`orders/${order}`, { status: "shipped" }, `order-${order}-shipped`);
  response.sendStatus(204);
});

const server = app.listen(process.env.PORT ?? 8000);
// Caddy keeps a connection for 2 minutes. It does not send a form again when it finds out
// that the connection is gone, so we keep it for longer.
server.keepAliveTimeout = 150_000;
