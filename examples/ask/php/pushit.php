<?php // A backend for pushit's guard ask. It answers each request, so make sure that only Caddy can reach it.

$users = [ // by token
    'ann-secret' => ['user' => 'ann', 'claims' => ['role' => 'editor']],
    'bob-secret' => ['user' => 'bob', 'claims' => ['role' => 'reader']],
];
$q = json_decode(file_get_contents('php://input'), true);

function yes($answer) {
    header('Content-Type: application/json');
    exit(json_encode((object) $answer));
}
function no($reason, $status = 403) {
    header('Content-Type: text/plain; charset=utf-8', true, $status);
    exit($reason);
}

$channel = $q['channel'] ?? '';
$user = $q['agent']['user'] ?? '';
switch ($q['gate'] ?? '') {
    case 'connect':
        yes($users[$q['credentials']['token'] ?? ''] ?? no('wrong token'));
    case 'subscribe':
        $channel === 'news' || $channel === "users/$user" ? yes([]) : no('this channel is not yours');
    case 'publish':
        $channel === 'news' && ($q['agent']['claims']['role'] ?? '') === 'editor' || no('only editors write here');
        $text = trim($q['message']['data']['text'] ?? '');
        $text === '' ? http_response_code(204) : yes(['data' => ['from' => $user, 'text' => $text]]);
        break;
    default:
        no('not a question', 400);
}
