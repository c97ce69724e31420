<?php
// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

// The shop of the guide, in plain PHP. Users log in and see when their orders are shipped.
// It stands for your application: pushit needs the two routes below /pushit/, and whatever
// publishes.
//
// To try it, copy this folder to /srv/shop, and start PHP-FPM and Caddy with the same
// PUBLISHER_SECRET in the environment.

use App\PushIt;

require __DIR__ . '/../PushIt.php';

// Your application has users and orders of its own.
const PASSWORDS = ['ann' => 'wonderland', 'bob' => 'builder'];
const OWNERS = ['1' => 'ann', '2' => 'bob'];

/** The user who is logged in. It does not hold the session, so that other requests need not wait. */
function user(): ?string
{
    session_start(['read_and_close' => true, 'cookie_httponly' => true, 'cookie_samesite' => 'Lax']);
    return $_SESSION['user'] ?? null;
}

function end_with(int $status, string $text = ''): never
{
    http_response_code($status);
    header('Content-Type: text/plain; charset=utf-8');
    exit($text);
}

$path = parse_url($_SERVER['REQUEST_URI'], PHP_URL_PATH);
$route = $_SERVER['REQUEST_METHOD'] . ' ' . $path;

// Who is this? pushit asks when a page connects, with the cookies of the page.
if ($route === 'GET /pushit/session') {
    $user = user() ?? end_with(401, 'log in first');
    header("Remote-User: $user");
    end_with(204);
}

// May this user subscribe? pushit asks for each subscription.
if ($route === 'GET /pushit/channel') {
    $user = user() ?? end_with(401, 'log in first');
    $order = preg_match('~^orders/(\d+)$~D', $_GET['channel'] ?? '', $found) ? $found[1] : '';
    (OWNERS[$order] ?? null) === $user ? end_with(204) : end_with(403, 'this is not your order');
}

if ($route === 'POST /login') {
    $user = (string) ($_POST['user'] ?? '');
    $right = isset(PASSWORDS[$user]) && hash_equals(PASSWORDS[$user], (string) ($_POST['password'] ?? ''));
    $right ?: end_with(403, 'wrong user or password');
    session_start(['cookie_httponly' => true, 'cookie_samesite' => 'Lax']);
    session_regenerate_id(true);
    $_SESSION['user'] = $user;
    end_with(204);
}

// Something happens, and the pages that show the order are told.
if ($_SERVER['REQUEST_METHOD'] === 'POST' && preg_match('~^/orders/(\d+)/ship$~D', $path, $found)) {
    [, $order] = $found;
    (OWNERS[$order] ?? null) === user() && user() !== null ?: end_with(403, 'this is not your order');
    $push = new PushIt(getenv('PUSHIT_URL') ?: 'http://localhost:8080/push', getenv('PUBLISHER_SECRET'));
    // The uuid says what happened, so that it is published once, however often this runs.
    $push->publish("orders/$order", ['status' => 'shipped'], "order-$order-shipped");
    end_with(204);
}

end_with(404, 'There is nothing here.');
