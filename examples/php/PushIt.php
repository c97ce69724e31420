<?php
// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

namespace App;

/** Publishes on the channels of pushit. */
final class PushIt
{
    private const ATTEMPTS = 3;

    /** @param string $url the endpoint, such as https://example.com/push */
    public function __construct(private string $url, #[\SensitiveParameter] private string $secret)
    {
    }

    /**
     * Publishes a message. It may be sent more than once: the uuid sees to it that it is
     * published once.
     *
     * @param mixed $data anything that JSON can say
     * @param ?string $uuid your name for the message, if you may call this again for it
     * @throws \RuntimeException if it was not published; the code is the HTTP status, or 0
     */
    public function publish(string $channel, mixed $data, ?string $uuid = null): void
    {
        $message = ['channel' => $channel, 'data' => $data, 'uuid' => $uuid ?? bin2hex(random_bytes(16))];
        $context = stream_context_create(['http' => [
            'method' => 'POST',
            'header' => ["Authorization: Bearer $this->secret", 'Content-Type: application/json'],
            'content' => json_encode($message, JSON_THROW_ON_ERROR),
            'timeout' => 3,
            'follow_location' => 0,
            'ignore_errors' => true, // give us the answer, whatever its status
        ]]);
        for ($attempt = 1; ; $attempt++) {
            [$status, $answer] = $this->send($context);
            if ($status === 200) {
                // Another page, such as one that is there for every address, is no success.
                isset(json_decode($answer)->uuid) || throw new \RuntimeException("$this->url is no endpoint of pushit");
                return;
            }
            // Without an answer, nobody knows whether it was published. So send it again.
            $again = $status === 0 || $status === 429 || $status >= 500;
            if (!$again || $attempt === self::ATTEMPTS) {
                throw new \RuntimeException("publishing on $channel: " . ($status ? "HTTP $status: $answer" : 'no answer'), $status);
            }
            usleep(250_000 * $attempt);
        }
    }

    /** @return array{int, string} the status, or 0, and the beginning of the answer */
    private function send($context): array
    {
        $stream = @fopen("$this->url/publish", 'r', false, $context);
        if ($stream === false) {
            return [0, ''];
        }
        $status = stream_get_meta_data($stream)['wrapper_data'][0] ?? '';
        $answer = trim((string) stream_get_contents($stream, 1000));
        fclose($stream);
        return [preg_match('/^HTTP\S* (\d{3})/', $status, $found) ? (int) $found[1] : 0, $answer];
    }
}
