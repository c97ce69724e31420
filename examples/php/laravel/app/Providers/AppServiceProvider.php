<?php
// Copyright 2026 The pushit authors
// SPDX-License-Identifier: Apache-2.0

namespace App\Providers;

use App\PushIt;
use Illuminate\Support\ServiceProvider;

class AppServiceProvider extends ServiceProvider
{
    public function register(): void
    {
        $this->app->singleton(PushIt::class, fn () => new PushIt(config('services.pushit.url'), config('services.pushit.secret')));
    }
}
