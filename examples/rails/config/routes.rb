# Copyright 2026 The pushit authors
# SPDX-License-Identifier: Apache-2.0

Rails.application.routes.draw do
  get "pushit/session", to: "pushit#who"
  get "pushit/channel", to: "pushit#channel"

  resources :orders, only: :show
end
