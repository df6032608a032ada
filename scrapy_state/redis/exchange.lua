-- One exchange of a worker with its job, as one atomic step: new requests come in, duplicates are dropped; then requests
-- that are done are acknowledged; then the leases of dead workers come back; then requests are leased.
--
-- KEYS     the job's prefix and "meta"; every other key begins with the same prefix, and lies in the same cluster slot;
--          where others push what is to be crawled: a list, a set or a sorted set
-- ARGV     1 prefix   2 worker   3 lease in ms   4 the clock in this worker's last reply   5 how many requests are wanted
--          6 order of requests, 7 of start requests ("first" or "last" in, first out)
--          8 requests at work that Redis does not know of   9 requests done that are not acknowledged yet
--          10 "open", "go on", "again" (after a lost reply) or "close"
--          11 how many acknowledgements, 12 how many new requests, 13 how many leases the worker knows of ("again")
--          and then these: ids; pairs of fingerprint ("": no duplicate check) and element; ids
-- returns  {"gone"} if the job's data is not there, or is older than this worker has seen it, or
--          {"", clock, lost, refused, pending, other workers, what they are at, duplicates ("0"/"1" each), come back,
--          what is wrong with KEYS[2]: its type, id, element, …}
--
-- An element is "<priority>[s] <download slot>\n<request>"; "s" marks a start request, a request that begins with "+" was
-- pushed from outside.

local prefix, worker, lease_ms, last_clock, want = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local from_front = {[''] = ARGV[6] == 'first', s = ARGV[7] == 'first'}
local hidden, done, mode = tonumber(ARGV[8]), tonumber(ARGV[9]), ARGV[10]
local acknowledged, new, known = tonumber(ARGV[11]), tonumber(ARGV[12]), tonumber(ARGV[13])
local meta, workers, busy, ring = prefix .. 'meta', prefix .. 'workers', prefix .. 'busy', prefix .. 'ring'
local mine, clocks, told = prefix .. 'leases:' .. worker, prefix .. 'clocks', prefix .. 'duplicates'
local call = redis.call

-- Nothing that others push may stop the script half way: the type is known before the first write.
local pushed = KEYS[2]
local pushed_type = call('TYPE', pushed)['ok']
local count_of, take_of = {list = 'LLEN', set = 'SCARD', zset = 'ZCARD'}, {list = 'LPOP', set = 'SPOP', zset = 'ZPOPMAX'}

local time = call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
-- The clock counts exchanges. One that is behind, or the worker's own, is that of a Redis which has forgotten some.
local clock, own_clock = tonumber(call('HGET', meta, 'clock')) or 0, tonumber(call('HGET', clocks, worker))
if mode ~= 'open' and (clock < last_clock or (own_clock and own_clock < last_clock)) then
    return {'gone'}
end
-- Whether none of this worker's exchanges has taken place since the one whose reply it has.
local is_next = not own_clock or own_clock <= last_clock
if mode == 'go on' and not is_next then
    return {'late'} -- it was long on its way, and has been sent again meanwhile: nobody reads what it would lease
end
local lost = (mode == 'go on' or mode == 'again') and not call('ZSCORE', workers, worker)
-- The first write is one that a full Redis refuses: then nothing of this has happened.
call('HSETNX', meta, 'version', 1)
call('ZADD', workers, now + lease_ms, worker)
clock = clock + 1
call('HSET', clocks, worker, clock)

local read = call('HMGET', meta, 'pending', 'seen', 'generation', 'ids', 'turn')
local pending, seen, generation = tonumber(read[1]) or 0, tonumber(read[2]) or 0, tonumber(read[3]) or 0
local ids, turn = tonumber(read[4]) or 0, tonumber(read[5]) or 0

-- Fingerprints lie in many small hashes, which Redis packs tightly. Generation g has 16^(g+1) of them, of 64 on average
-- when the next one begins; so there are few where there are few fingerprints, and none has to be moved.
local function is_seen(fingerprint)
    local a, b, c = string.byte(fingerprint, 1, 3)
    local number = (a or 0) * 65536 + (b or 0) * 256 + (c or 0)
    for g = 0, generation - 1 do
        if call('HEXISTS', prefix .. 'seen:' .. g .. ':' .. math.floor(number / 2 ^ (20 - 4 * g)), fingerprint) == 1 then
            return true
        end
    end
    local bucket = prefix .. 'seen:' .. generation .. ':' .. math.floor(number / 2 ^ (20 - 4 * generation))
    if call('HSETNX', bucket, fingerprint, '') == 0 then
        return true
    end
    seen = seen + 1
    if seen >= 64 * 16 ^ (generation + 1) and generation < 5 then
        generation = generation + 1
    end
    return false
end

local function put(element, again)
    local priority, start, slot = string.match(element, '^(%-?%d+)(s?) ([^\n]*)\n')
    local member = priority .. start
    local push = (again and from_front[start]) and 'LPUSH' or 'RPUSH'
    if call(push, prefix .. 'queue:' .. member .. ':' .. slot, element) == 1 then
        call('ZADD', prefix .. 'priorities:' .. slot, (start == 's' and 0.5 or 0) - priority, member)
        if not call('ZSCORE', ring, slot) then
            turn = turn + 1
            call('ZADD', ring, turn, slot)
        end
    end
    pending = pending + 1
end

local function put_back(leases)
    local back = call('HVALS', leases)
    for _, element in ipairs(back) do
        put(element, true)
    end
    call('DEL', leases)
    return #back
end

local leased = {}
local function lease(element)
    ids = ids + 1
    call('HSET', mine, ids, element)
    leased[#leased + 1] = ids
    leased[#leased + 1] = element
end

-- Lease up to count requests of a download slot, best priority first.
local function take(slot, count)
    local priorities = prefix .. 'priorities:' .. slot
    while count > 0 do
        local member = call('ZRANGE', priorities, 0, 0)[1]
        if not member then
            break
        end
        local queue = prefix .. 'queue:' .. member .. ':' .. slot
        local front = from_front[string.match(member, 's?$')]
        local elements = front and call('LRANGE', queue, 0, count - 1) or call('LRANGE', queue, -count, -1)
        if front then
            call('LTRIM', queue, #elements, -1)
        else
            call('LTRIM', queue, 0, -#elements - 1)
        end
        for n = 1, #elements do
            lease(elements[front and n or #elements + 1 - n])
        end
        count = count - #elements
        pending = pending - #elements
        if call('EXISTS', queue) == 0 then
            call('ZREM', priorities, member)
        end
    end
    if call('EXISTS', priorities) == 1 then
        turn = turn + 1
        call('ZADD', ring, turn, slot)
    else
        call('ZREM', ring, slot)
    end
end

local at = 14
local acknowledge_at, new_at, known_at = at, at + acknowledged, at + acknowledged + 2 * new

local duplicates = {}
for n = 0, new - 1 do
    local fingerprint = ARGV[new_at + 2 * n]
    if is_next and (fingerprint == '' or not is_seen(fingerprint)) then
        put(ARGV[new_at + 2 * n + 1], false)
        duplicates[n + 1] = '0'
    else
        duplicates[n + 1] = '1'
    end
end
duplicates = table.concat(duplicates)
if new > 0 and is_next then
    call('HSET', told, worker, duplicates)
elseif new > 0 then -- what the reply that was lost has said of these very requests
    duplicates = call('HGET', told, worker) or string.rep('0', new)
end

local refused = acknowledged
for n = 0, acknowledged - 1 do
    refused = refused - call('HDEL', mine, ARGV[acknowledge_at + n])
end

local come_back = 0
if mode == 'again' then
    -- Leases of a reply that never came. New ones only next time: this one, too, may be late.
    want = 0
    local is_known = {}
    for n = 0, known - 1 do
        is_known[ARGV[known_at + n]] = true
    end
    local held = call('HGETALL', mine)
    for n = 1, #held, 2 do
        if not is_known[held[n]] then
            put(held[n + 1], true)
            call('HDEL', mine, held[n])
        end
    end
end
local dead = call('ZRANGEBYSCORE', workers, '-inf', '(' .. now, 'LIMIT', 0, 1)[1]
if dead then
    come_back = put_back(prefix .. 'leases:' .. dead)
    call('ZREM', workers, dead)
    call('HDEL', busy, dead)
    call('HDEL', clocks, dead)
    call('HDEL', told, dead)
end

local wanted = want
while wanted > 0 do
    local slot = call('ZRANGE', ring, 0, 0)[1]
    if not slot then
        break
    end
    local before = #leased
    take(slot, math.ceil(wanted / call('ZCARD', ring)))
    wanted = wanted - (#leased - before) / 2
end
-- What an earlier run could not read; then what was pushed from outside, the highest score of a sorted set first.
while wanted > 0 do
    local element = call('LPOP', prefix .. 'back')
    if not element then
        break
    end
    lease(element)
    wanted = wanted - 1
end
while wanted > 0 and take_of[pushed_type] do
    local text = call(take_of[pushed_type], pushed)
    if type(text) == 'table' then
        text = text[1]
    end
    if not text then
        break
    end
    lease('0 \n+' .. text)
    wanted = wanted - 1
end

local others, others_busy = 0, 0
if mode == 'close' then
    come_back = come_back + put_back(mine)
    call('ZREM', workers, worker)
    call('HDEL', busy, worker)
    call('HDEL', clocks, worker)
    call('HDEL', told, worker)
else
    local own = call('HLEN', mine) - (lost and 0 or done)
    call('HSET', busy, worker, math.max(own, 0) + hidden)
end
local all = call('HGETALL', busy)
for n = 1, #all, 2 do
    if all[n] ~= worker then
        others = others + 1
        others_busy = others_busy + tonumber(all[n + 1])
    end
end
call('HSET', meta, 'clock', clock, 'pending', pending, 'seen', seen, 'generation', generation, 'ids', ids, 'turn', turn)

local waiting = call('LLEN', prefix .. 'back')
if count_of[pushed_type] then
    waiting = waiting + call(count_of[pushed_type], pushed)
    pushed_type = ''
end
local reply = {'', clock, lost and 1 or 0, refused, pending + waiting, others, others_busy, duplicates, come_back,
    pushed_type == 'none' and '' or pushed_type}
for n = 1, #leased do
    reply[#reply + 1] = leased[n]
end
return reply
